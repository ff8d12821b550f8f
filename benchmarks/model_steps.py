"""Our models' passes as the engine makes them, and what each needs."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from graph_clock import wait

from fastkernels_gym.catalog import Model
from fastkernels_gym.catalog.operators import find_operator
from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, linear_block_table
from fastkernels_gym.engine.build import build_model, materialise
from fastkernels_gym.engine.graphs import StepGraphs
from fastkernels_gym.engine.step import CapturedStep, KVCaches, forward_logits, forward_step, own_workspaces
from fastkernels_gym.engine.weights import random_weights
from fastkernels_gym.referee.roofline import unread_experts
from fastkernels_gym.tasks.baseline.L1.flash_attn_decode import FlashAttnDecode
from fastkernels_gym.tasks.baseline.L2.fused_moe import FusedMoE

_BLOCK_SIZE = 16
_CHECKED = 33  # tokens whose logits are compared
_SHARE_FOR_WEIGHTS = 0.8


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass must do: bytes of weights and of keys and values, operations of matrix products and attention."""

    weight_bytes: int
    kv_bytes: int
    flops: int

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes


class Repeated:
    """A pass made `length` times in a row, eagerly or as a CUDA graph of one.

    Args:
        work: the pass.
        device: where it runs.
        before: what puts things back first; it is not timed.
        graph: whether to capture it; on a GPU.
        length: how often between two looks at the clock.
    """

    def __init__(
        self,
        work: Callable[[], object],
        device: torch.device,
        before: Callable[[], None] = lambda: None,
        *,
        graph: bool = False,
        length: int = 1,
    ) -> None:
        self.length, self._device, self._before, self._work = length, device, before, work
        self._owner = work  # of what a graph reads and writes
        for _ in range(2):
            before()
            work()
        if graph:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                before()
                work()
            torch.cuda.current_stream().wait_stream(stream)
            before()
            captured = torch.cuda.CUDAGraph()
            with own_workspaces(), torch.cuda.graph(captured, stream=stream):
                work()
            self._work = captured.replay

    def seconds(self) -> float:
        self._before()
        wait(self._device)
        begin = time.perf_counter()
        for _ in range(self.length):
            self._work()
        wait(self._device)
        return (time.perf_counter() - begin) / self.length


class Ours:
    """Our model with random weights.

    Args:
        model: which.
        device: where.
        num_layers: its depth.
    """

    def __init__(self, model: Model, device: torch.device, num_layers: int) -> None:
        operator = find_operator(model.l4)
        l4 = getattr(importlib.import_module(operator.module), operator.class_name)
        self.model, self.device, self.num_layers = model, device, num_layers
        self.module = build_model(model.config, l4, device=device, dtype=model.dtype, num_layers=num_layers)
        materialise(self.module, device)
        random_weights(self.module, torch.Generator(device).manual_seed(0), model.config.initializer_range)

    def distance(self, logits: Callable[[torch.Tensor], torch.Tensor], num_layers: int) -> float:
        """Relative RMS between our logits and those of another model on one random prompt, both of so many layers."""
        batch, caches = self._batch(1, _CHECKED, 0)
        decoder, layers = self.module.model, self.module.model.layers
        decoder.layers = layers[:num_layers]
        try:
            ours = forward_logits(self.module, batch, caches).float()
        finally:
            decoder.layers = layers
        theirs = logits(batch.input_ids).float()[:, : ours.shape[1]]
        return float((ours - theirs).norm() / theirs.norm())

    def prefill(self, num_seqs: int, length: int) -> tuple[Repeated, Work]:
        """As the engine makes it: a GPU's by a graph where that is faster."""
        batch, caches = self._batch(num_seqs, length, 0)
        if self.device.type == "cuda":
            graphs = StepGraphs(self.module, caches, _BLOCK_SIZE)
            step = Repeated(lambda: graphs.run(batch), self.device)
        else:
            step = Repeated(lambda: forward_step(self.module, batch, caches), self.device)
        return step, self._work(batch, caches, [length] * num_seqs, [0] * num_seqs)

    def decode(self, num_seqs: int, context: int) -> tuple[Repeated, Work]:
        """In a CUDA graph on a GPU."""
        batch, caches = self._batch(num_seqs, 1, context)
        for pair in caches:
            for pages in pair:
                pages.normal_()
        work = self._work(batch, caches, [1] * num_seqs, [context] * num_seqs)
        if self.device.type != "cuda":
            return Repeated(lambda: forward_step(self.module, batch, caches), self.device), work
        step = CapturedStep(self.module, batch, caches)
        return Repeated(step.replay, self.device, length=4), work

    def _batch(self, num_seqs: int, query: int, context: int) -> tuple[Batch, KVCaches]:
        pages = num_seqs * -(-(query + context) // _BLOCK_SIZE)
        table = linear_block_table(num_seqs, query + context, _BLOCK_SIZE, torch.randperm(pages).tolist())
        caches = allocate_kv_caches(
            self.model.config, pages, _BLOCK_SIZE, self.device, self.model.dtype, self.num_layers
        )
        ids = torch.randint(self.model.config.vocab_size, (num_seqs * query,))
        return Batch.build([query] * num_seqs, [context] * num_seqs, table, _BLOCK_SIZE, self.device, ids), caches

    def _work(self, batch: Batch, caches: KVCaches, queries: list[int], contexts: list[int]) -> Work:
        """Every weight once but the embedding's other rows and the experts that no token chose in this pass."""
        with unread_experts(self.module) as unread:
            forward_step(self.module, batch, caches)
        head = self.module.lm_head.weight
        layers = [p for name, p in self.module.named_parameters() if ".layers." in name]
        weight_bytes = sum(p.nbytes for p in layers) + head.nbytes - sum(unread)
        rows = sum(queries)
        flops = 2 * len(queries) * head.numel()
        flops += 2 * rows * sum(p.numel() for name, p in self.module.named_parameters() if _dense(name, p))
        flops += 2 * rows * sum(
            (m.w13_weight.numel() + m.w2_weight.numel()) // m.num_experts * m.top_k for m in self._parts(FusedMoE)
        )  # fmt: skip
        kv_bytes = 0
        for part in self._parts(FlashAttnDecode):
            window = part.sliding_window or 1 << 40
            for query, context in zip(queries, contexts, strict=True):
                seen = [min(length, window) for length in range(context + 1, context + query + 1)]
                flops += 4 * part.num_heads * part.head_size * sum(seen)
                kv_bytes += 2 * part.num_kv_heads * part.head_size * self.model.dtype.itemsize * max(seen)
        return Work(weight_bytes, kv_bytes, flops)

    def _parts(self, kind: type) -> list:
        return [module for module in self.module.modules() if isinstance(module, kind)]


def full_depth(model: Model, device: torch.device) -> int:
    """All layers, or as many as leave memory for caches and activations."""
    full = model.config.num_hidden_layers
    if device.type != "cuda":
        return full
    operator = find_operator(model.l4)
    l4 = getattr(importlib.import_module(operator.module), operator.class_name)
    one, two = (
        sum(
            p.numel() * p.dtype.itemsize
            for p in build_model(
                model.config, l4, device=torch.device("meta"), dtype=model.dtype, num_layers=depth
            ).parameters()
        )
        for depth in (1, 2)
    )
    room = _SHARE_FOR_WEIGHTS * torch.cuda.mem_get_info(device)[0]
    return max(1, min(full, int((room - (2 * one - two)) // (two - one))))


def _dense(name: str, param: torch.nn.Parameter) -> bool:
    """A matrix of a layer that every token is multiplied with."""
    return param.dim() == 2 and ".layers." in name
