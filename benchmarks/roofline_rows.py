"""One measured case: its time, what it must move, and the ceilings and rivals that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from attention_backends import backends
from ceilings import Ceilings
from graph_clock import Calls, Runner, race, runner
from operator_cases import Prepared
from torch.nn import functional
from triton.errors import TritonError

from fastkernels_gym.tasks.baseline.forward_context import ForwardContext, set_forward_context

_FAULTS = (RuntimeError, TypeError, ValueError, NotImplementedError, TritonError)
# What mostly reads, weights or pages; their references are no rivals.
_READERS = ("L1/linear", "L1/flash_attn_decode", "L1/flash_attn_prefill", "L1/grouped_gemm")
_WRONG = 0.03  # relative RMS from our own output beyond which a backend computes something else

Bound = Literal["copy", "read", "matrix"]


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds are of one call in a CUDA graph; `rivals` are timed in turns with it.

    Args:
        model: its name.
        phase: such as `decode 32 x 1024`.
        tokens: new tokens of the pass.
        operator: its id, or what was timed instead.
        label: what tells the case from the operator's others.
        seconds: of ours.
        bytes: that a call must move.
        flops: of its matrix products and attention.
        bound: what holds it back: a copy of the same size, reads, or matrix products.
        ceiling_s: the least time by that bound.
        rivals: seconds by name.
        faults: why a rival has no time, by name.
        eager: names of those that no graph could hold; they are timed with their launches.
        sets: input sets in turns.
        args: the call's arguments.
    """

    model: str
    phase: str
    tokens: int
    operator: str
    label: str
    seconds: float
    bytes: int
    flops: int
    bound: Bound
    ceiling_s: float
    rivals: Mapping[str, float] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)
    eager: tuple[str, ...] = ()
    sets: int = 1
    args: tuple[Any, ...] = ()

    @property
    def share(self) -> float:
        """Of the ceiling."""
        return self.ceiling_s / self.seconds

    @property
    def fastest_rival(self) -> tuple[str, float] | None:
        return min(self.rivals.items(), key=lambda item: item[1]) if self.rivals else None

    @property
    def lead(self) -> float | None:
        """The fastest rival's time over ours."""
        return self.fastest_rival[1] / self.seconds if self.fastest_rival else None

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        for key in ("seconds", "ceiling_s"):
            found[key.replace("_s", "_us") if key.endswith("_s") else "us"] = round(found.pop(key) * 1e6, 3)
        found["rivals"] = {name: round(s * 1e6, 3) for name, s in self.rivals.items()}
        return {**found, "share": round(self.share, 4), "bytes_per_s": round(self.bytes / self.seconds)}


def measure(
    where: tuple[str, str, int], operator: str, label: str, prepared: Prepared, scene: Any, ceilings: Ceilings,
    *, compiled: bool = True, args: tuple[Any, ...] = (),
) -> Row:  # fmt: skip
    """Times a case and its rivals in turns.

    Args:
        where: model, phase, tokens.
        operator: its id.
        label: of the case.
        prepared: its calls.
        scene: that they were recorded in.
        ceilings: of the device.
        compiled: whether torch.compile of the reference is a rival.
        args: the call's arguments, for the record.
    """
    bound, ceiling_s = least(operator, prepared.work.bytes, prepared.work.flops, ceilings)
    with torch.no_grad(), set_forward_context(ForwardContext(scene.batch.metadata, scene.kv_caches)):
        ways, faults = {"ours": prepared.calls()}, {}
        ways |= _rivals(operator, prepared, scene, compiled=compiled)
        if operator == "L1/flash_attn_prefill":
            faults = _drop_wrong(ways)
        times, failed, eager = timed(ways, ceilings.device, ceiling_s)
    if "ours" not in times:
        raise RuntimeError(f"{operator} {label}: {failed['ours']}")
    rivals = {name: seconds for name, seconds in times.items() if name != "ours"}
    return Row(
        *where, operator, label, times["ours"], prepared.work.bytes, prepared.work.flops, bound, ceiling_s,
        rivals, faults | failed, eager, len(prepared.arguments), args,
    )  # fmt: skip


def least(operator: str, nbytes: int, flops: int, ceilings: Ceilings) -> tuple[Bound, float]:
    """What holds a call back, and the seconds that it then takes at least."""
    matrix_s = flops / ceilings.matrix
    if operator in _READERS or not operator.startswith("L1/"):
        read_s = nbytes / ceilings.read
        return ("matrix", matrix_s) if matrix_s > read_s else ("read", read_s)
    return "copy", nbytes / ceilings.copy_rate(nbytes)


def timed(
    ways: Mapping[str, Calls], device: torch.device, least_s: float
) -> tuple[dict[str, float], dict[str, str], tuple[str, ...]]:
    """Seconds by name, why others have none, and which of them no graph could hold."""
    runners: dict[str, Runner] = {}
    faults, eager = {}, []
    for name, calls in ways.items():
        try:
            runners[name], captured = runner(calls, device, least_s)
        except _FAULTS as error:
            faults[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            continue
        if not captured:
            eager.append(name)
    together = {name: one for name, one in runners.items() if name not in eager or len(eager) == len(runners)}
    times = race(together) if together else {}
    for name in runners.keys() - times.keys():
        times |= race({name: runners[name]})
    return times, faults, tuple(eager)


def _rivals(operator: str, prepared: Prepared, scene: Any, *, compiled: bool) -> dict[str, Calls]:
    first = prepared.modules[0]
    if operator == "L1/linear":
        return {"cublas": prepared.calls(functional.linear)}
    if operator == "L1/flash_attn_prefill":
        return {name: prepared.calls(way) for name, way in backends(first, scene.query_lens).items()}
    if operator in _READERS or not operator.startswith("L1/"):
        return {}
    eager = {
        "eager": [_native(module, args) for module, args in zip(prepared.modules, prepared.arguments, strict=True)]
    }
    if not compiled:
        return eager
    torch._dynamo.reset()
    whole = torch.compile(first.forward_native, fullgraph=True, dynamic=False)
    return {**eager, "compiled": prepared.calls(whole)}


def _native(module: Any, args: tuple[Any, ...]) -> Any:
    return lambda: module.forward_native(*args)


def _drop_wrong(ways: dict[str, Calls]) -> dict[str, str]:
    """Takes out backends that fail or compute something else than ours; says why."""
    ours: Any = ways["ours"][0]()
    faults = {}
    for name in [name for name in ways if name != "ours"]:
        try:
            theirs: Any = ways[name][0]()
            off = float((theirs.float() - ours.float()).norm() / ours.float().norm())
            if not off <= _WRONG:
                faults[name] = f"differs from ours by {off:.1%}"
        except _FAULTS as error:
            faults[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if name in faults:
            del ways[name]
    return faults
