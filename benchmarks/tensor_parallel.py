"""Two ranks against one: are the results the same, what does the sum over ranks cost, how much faster is a decode step?

python benchmarks/tensor_parallel.py                    # on two GPUs, over NCCL
python benchmarks/tensor_parallel.py --device cpu       # over gloo, tiny models

Starts its two ranks itself. Each computes everything alone first, then together with the other; errors are
|two ranks - one| / |one|, root mean squares, the greater of both ranks'. In float32 what is left is the order of sums;
bfloat16's is that of a model's own rounding. NCCL's settings are the environment's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from provenance import ROOT, facts

from fastkernels_gym import load_model
from fastkernels_gym.catalog.models import load_model_config
from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, linear_block_table
from fastkernels_gym.engine.loading import build_loaded
from fastkernels_gym.engine.ranks import join, leave
from fastkernels_gym.engine.step import CapturedStep, forward_logits, forward_step
from fastkernels_gym.tasks.baseline.L1.allreduce import AllReduce
from fastkernels_gym.tasks.baseline.L2.parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from fastkernels_gym.tasks.baseline.L2.parallel_linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
    gather_last_dim,
)

RANKS, BLOCK = 2, 16
MODELS = {
    "cuda": ("llama-3.1-8b", "qwen2.5-7b", "qwen3-8b", "gemma-3-4b", "phi-4", "mixtral-8x7b", "qwen3-30b-a3b"),
    "cpu": ("tiny-llama", "tiny-qwen3", "tiny-gemma3", "tiny-phi3", "tiny-mixtral", "tiny-qwen3-moe"),
}
DTYPES = {"cuda": (torch.float32, torch.bfloat16), "cpu": (torch.float32,)}
# hidden, intermediate, heads, KV heads, head size, vocabulary: Llama-3.1-8B's, and a small one's
SIZES = {"cuda": (4096, 14336, 32, 8, 128, 128256), "cpu": (64, 96, 4, 2, 16, 150)}
LAYERS = 2  # of each model whose logits are compared: more of them only round more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/<device>-tensor-parallel.json")
    options = parser.parse_args()
    if "RANK" not in os.environ:
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
        sys.exit(subprocess.run([sys.executable, *torchrun, __file__, *sys.argv[1:]]).returncode)
    kind, rank = options.device, int(os.environ["RANK"])
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    with torch.no_grad():
        alone = computed(kind, device, 1)
        join(RANKS, device)
        together = computed(kind, device, RANKS)
        sums = all_reduce(kind, device)
    result = {
        **facts(device),
        "backend": dist.get_backend(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if kind == "cuda" else None,
        "environment": {name: value for name, value in os.environ.items() if name.startswith("NCCL_")},
        "errors": {name: worst(together["results"][name], one, device) for name, one in alone["results"].items()},
        "engine": {name: said == alone["engine"][name] for name, said in together["engine"].items()},
        "decode": [
            {**row, "tp1_ms": one, "tp2_ms": two}
            for (row, one), (_, two) in zip(alone["decode"], together["decode"], strict=True)
        ],
        "all_reduce": sums,
    }
    leave()
    if rank == 0:
        out = options.out or ROOT / f"benchmarks/results/{kind}-tensor-parallel.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result, indent=1))


def computed(kind: str, device: torch.device, tp: int) -> dict[str, Any]:
    """All that is compared, of this rank alone (tp = 1) or of both together."""
    results: dict[str, torch.Tensor] = {}
    for dtype in DTYPES[kind]:
        of_dtype = str(dtype).removeprefix("torch.")
        for name, output in layers(kind, device, dtype, tp).items():
            results[f"{name}, {of_dtype}"] = output.cpu()
        for name in MODELS[kind]:
            results[f"logits of {name}, {of_dtype}"] = logits(name, device, dtype).cpu()
            forget(device)
    return {"results": results, "engine": engines(device, tp), "decode": decode(kind, device)}


def built(kind: str, dtype: torch.dtype) -> dict[str, tuple[Any, list[int] | None]]:
    """Every parallel layer by name, and the widths of the outputs side by side that stay split over the ranks."""
    hidden, inner, heads, kv_heads, size, vocabulary = SIZES[kind]
    rows = [heads * size, kv_heads * size, kv_heads * size]
    own: dict[str, Any] = {"params_dtype": dtype}
    return {
        "ColumnParallelLinear": (ColumnParallelLinear(hidden, inner, **own), [inner]),
        "ColumnParallelLinear, gathered": (ColumnParallelLinear(hidden, inner, gather_output=True, **own), None),
        "MergedColumnParallelLinear": (MergedColumnParallelLinear(hidden, [inner, inner], **own), [inner, inner]),
        "QKVParallelLinear": (QKVParallelLinear(hidden, size, heads, kv_heads, **own), rows),
        "RowParallelLinear": (RowParallelLinear(hidden, inner, input_is_parallel=False, **own), None),
        "VocabParallelEmbedding": (VocabParallelEmbedding(vocabulary, hidden, **own), None),
        "ParallelLMHead": (ParallelLMHead(vocabulary, hidden, bias=True, **own), None),
    }


def layers(kind: str, device: torch.device, dtype: torch.dtype, tp: int) -> dict[str, torch.Tensor]:
    """Outputs of every parallel layer, whole, from whole weights."""
    hidden, inner, *_, vocabulary = SIZES[kind]
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype) * shape[-1] ** -0.5

    x, addends = drawn(64, hidden), [drawn(64, hidden) for _ in range(RANKS)]
    ids = torch.randint(vocabulary, (64,), generator=torch.Generator().manual_seed(0)).to(device)
    # Each rank has its own addend; alone, both are added here.
    outputs = {"AllReduce": sum(addends[1:], addends[0]) if tp == 1 else AllReduce()(addends[dist.get_rank()])}
    with torch.device(device):
        cases = built(kind, dtype)
    for name, (layer, parts) in cases.items():
        rows = sum(parts) if parts else inner if "Linear" in name else vocabulary
        layer.weight.weight_loader(layer.weight, drawn(rows, hidden))
        if getattr(layer, "bias", None) is not None:
            layer.bias.weight_loader(layer.bias, drawn(rows))
        output = layer(ids if name == "VocabParallelEmbedding" else x)
        output = output[0] if isinstance(output, tuple) else output
        outputs[name] = whole(output, parts, tp) if parts and tp > 1 else output
    return outputs


def whole(output: torch.Tensor, parts: list[int], tp: int) -> torch.Tensor:
    """The ranks' [part 0 | part 1 | ...] as whole parts side by side."""
    ranks = [rank.split([size // tp for size in parts], -1) for rank in gather_last_dim(output, tp).chunk(tp, -1)]
    return torch.cat([share for shares in zip(*ranks, strict=True) for share in shares], -1)


def logits(name: str, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Of a ragged prefill and of a decode step after it, (tokens, vocabulary)."""
    model = load_model_config(name)
    module = build_loaded(model, device, dtype, num_layers=LAYERS)
    lengths, generator = [65, 48, 7], torch.Generator().manual_seed(3)
    table = linear_block_table(len(lengths), max(lengths) + 1, BLOCK)
    caches = allocate_kv_caches(module.config, table.numel(), BLOCK, device, dtype)
    outputs = []
    for queries, contexts in ((lengths, [0] * len(lengths)), ([1] * len(lengths), lengths)):
        ids = torch.randint(model.config.vocab_size, (sum(queries),), generator=generator)
        outputs.append(forward_logits(module, Batch.build(queries, contexts, table, BLOCK, device, ids), caches))
    return torch.cat(outputs)


def engines(device: torch.device, tp: int) -> dict[str, list[list[int]]]:
    """Greedy tokens of whole engines in float32, CUDA graphs and all."""
    prompts = [[3 * i + j for j in range(5 * i + 1)] for i in range(8)]
    said = {}
    for name in MODELS["cpu"]:
        engine = load_model(name, device, "float32", tp=tp)
        said[name] = engine.generate(prompts, 24, ignore_eos=True)
        del engine  # before the next, and before the group is left: NCCL waits for graphs that hold its operations
        forget(device)
    return said


def decode(kind: str, device: torch.device) -> list[tuple[dict[str, Any], float]]:
    """Milliseconds of a decode step, on a GPU as a CUDA graph in the config's dtype, each with what it is of."""
    model = load_model_config("llama-3.1-8b" if kind == "cuda" else "tiny-llama")
    module = build_loaded(model, device, model.dtype)
    rows = []
    for batch, context in ((1, 1024), (32, 1024)) if kind == "cuda" else ((1, 64), (4, 64)):
        table = linear_block_table(batch, context + 1, BLOCK)
        caches = allocate_kv_caches(model.config, table.numel(), BLOCK, device, model.dtype)
        ids = torch.arange(batch)
        inputs = Batch.build([1] * batch, [context] * batch, table, BLOCK, device, ids)
        if kind == "cuda":
            step: Callable[[], Any] = CapturedStep(module, inputs, caches).replay
        else:
            step = lambda inputs=inputs, caches=caches: forward_step(module, inputs, caches)  # noqa: E731
        rows.append(({"model": model.name, "batch": batch, "context": context}, milliseconds(step, kind)))
        del step
        forget(device)
    return rows


def all_reduce(kind: str, device: torch.device) -> list[dict[str, float]]:
    """Microseconds and GB/s of the sum over ranks: what each of two sends is what it holds."""
    rows = []
    for exponent in range(13, 29 if kind == "cuda" else 23, 3):
        x = torch.zeros(2 ** (exponent - 1), dtype=torch.bfloat16, device=device)
        took = milliseconds(lambda x=x: AllReduce()(x), kind)
        rows.append({"bytes": 2**exponent, "us": round(1e3 * took, 1), "GB/s": round(2**exponent / took / 1e6, 2)})
    return rows


def milliseconds(work: Callable[[], Any], kind: str, bursts: int = 7) -> float:
    """The median over bursts of the mean time of a call."""
    calls, times = 20 if kind == "cuda" else 3, []
    for _ in range(bursts):
        if kind == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        if kind == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - begin) / calls * 1e3)
    return round(sorted(times)[bursts // 2], 4)


def worst(two: torch.Tensor, one: torch.Tensor, device: torch.device) -> float:
    """The greater of both ranks' relative errors."""
    error = (two.double() - one.double()).norm() / one.double().norm()
    shared = torch.tensor([float(error)], device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return float(shared)


def forget(device: torch.device) -> None:
    """Frees what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
