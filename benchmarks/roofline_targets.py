"""What the baselines must reach, and whether the measured rows do."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from roofline_rows import Row

MEMORY_BOUND = (
    "L1/rms_norm", "L1/gemma_rms_norm", "L1/silu_and_mul", "L1/gelu_and_mul", "L1/rotary_emb", "L1/store_kvcache",
    "L1/embedding", "L1/moe_sum", "L1/topk_softmax",
)  # fmt: skip
LAYER_LINEARS = "linears of a layer"
ALONE = "alone"  # attention at lengths of its own
_LATENCY_S = 3e-6


@dataclass(frozen=True, slots=True)
class Target:
    """One line: of which model, what is asked, what was measured, whether that is enough."""

    model: str
    what: str
    asked: str
    measured: str
    met: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def targets(rows: Sequence[Row]) -> list[Target]:
    """All that the rows can answer, model by model."""
    found: list[Target] = []
    for model in dict.fromkeys(row.model for row in rows):
        ours = [row for row in rows if row.model == model]
        for part in (_streaming, _decode, _linears, _layers, _attention):
            found += part(model, ours)
    return found


def _streaming(model: str, rows: Sequence[Row]) -> Iterator[Target]:
    large = [row for row in rows if row.operator in MEMORY_BOUND and row.tokens == 2048]
    if not large:
        return
    worst = min(large, key=lambda row: row.share)
    middle = statistics.median(row.share for row in large)
    yield Target(model, "memory-bound L1 at 2048, median of a copy", ">= 0.95", f"{middle:.3f}", middle >= 0.95)
    yield Target(
        model, "memory-bound L1 at 2048, worst of a copy", ">= 0.85", f"{worst.share:.3f} {_name(worst)}",
        worst.share >= 0.85,
    )  # fmt: skip


def _decode(model: str, rows: Sequence[Row]) -> Iterator[Target]:
    small = [row for row in rows if row.operator in MEMORY_BOUND and row.phase.startswith("decode")]
    if not small:
        return
    behind = [row for row in small if row.lead is not None and row.lead < 1 / 1.03]
    slow = [row for row in small if row.seconds > _LATENCY_S > row.ceiling_s]
    worst = min(small, key=lambda row: row.lead if row.lead is not None else 9.0)
    lead = f"{1 / worst.lead:.2f} {_name(worst)}" if worst.lead else "no rival"
    yield Target(model, "L1 of decode, time over fastest of eager, compiled", "<= 1.03", f"{lead} ({len(behind)} over)",
                 not behind)  # fmt: skip
    slowest = max(small, key=lambda row: row.seconds)
    yield Target(model, "L1 of decode, us", "<= 3", f"{slowest.seconds * 1e6:.2f} {_name(slowest)} ({len(slow)} over)",
                 not slow)  # fmt: skip


def _linears(model: str, rows: Sequence[Row]) -> Iterator[Target]:
    linears = [row for row in rows if row.operator == "L1/linear" and row.lead is not None]
    if linears:
        worst = min(linears, key=lambda row: row.lead or 0.0)
        behind = sum((row.lead or 0.0) < 0.97 for row in linears)
        yield Target(model, "linear, speed over cuBLAS", ">= 0.97", f"{worst.lead:.3f} {_name(worst)} ({behind} under)",
                     not behind)  # fmt: skip


def _layers(model: str, rows: Sequence[Row]) -> Iterator[Target]:
    for row in rows:
        if row.operator == LAYER_LINEARS and row.tokens in (1, 32):
            speed = row.bytes / row.seconds / 1e12
            yield Target(model, f"linears of a layer at M = {row.tokens}, of reads", ">= 0.80",
                         f"{row.share:.3f} ({speed:.2f} TB/s; cuBLAS {row.ceiling_s / row.rivals['cublas']:.3f})",
                         row.share >= 0.80)  # fmt: skip


def _attention(model: str, rows: Sequence[Row]) -> Iterator[Target]:
    for row in rows:
        if row.operator == "L1/flash_attn_prefill" and row.fastest_rival is not None:
            name, seconds = row.fastest_rival
            over = row.seconds / seconds
            yield Target(model, f"attention, {row.phase} {row.label}, time over fastest", "<= 1.03",
                         f"{over:.3f} ({row.flops / row.seconds / 1e12:.0f} TFLOP/s; {name} "
                         f"{row.flops / seconds / 1e12:.0f})", over <= 1.03)  # fmt: skip
        if row.operator == "L1/flash_attn_decode" and row.label.startswith(ALONE):
            yield Target(model, f"attention, {row.phase} {row.label}, of reads", ">= 0.80", f"{row.share:.3f}",
                         row.share >= 0.80)  # fmt: skip


def _name(row: Row) -> str:
    return f"{row.operator.removeprefix('L1/')} {row.label}, {row.phase}"
