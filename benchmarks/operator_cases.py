"""An operator's calls at a model's true shapes: real arguments in rotating buffers, and what a call must move."""

from __future__ import annotations

import functools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ceilings import cache_bytes
from torch import nn

from fastkernels_gym.catalog import Case, Model, Phase
from fastkernels_gym.catalog.trace import trace
from fastkernels_gym.catalog.work import Work
from fastkernels_gym.referee.roofline import own_bytes, work_of
from fastkernels_gym.referee.scene import Ambient, Argument, Call, Given, Scene, Shared, metadata_tensors, same_layout
from fastkernels_gym.referee.subject import Subject, build_unbound
from fastkernels_gym.tasks.baseline.forward_context import layer_index
from fastkernels_gym.tasks.baseline.L1.embedding import Embedding
from fastkernels_gym.tasks.baseline.L1.flash_attn_decode import FlashAttnDecode
from fastkernels_gym.tasks.baseline.L1.flash_attn_prefill import FlashAttnPrefill
from fastkernels_gym.tasks.baseline.L2.parallel_embedding import VocabParallelEmbedding

_MOST_SETS = 256
_WEIGHT = 1 << 20  # bytes from which a weight counts as one that a cache must not hold
_MOST_LAYERS = 12


@dataclass(frozen=True, slots=True)
class Prepared:
    """Calls of one case, ready to be timed.

    Args:
        path: of the first call.
        modules: one for each set of arguments: layers take turns, and so do their weights.
        arguments: likewise; together larger than twice the last cache, unless they are so small that a model's own
            previous kernel leaves them there.
        work: of one call, attention's products included.
    """

    path: str
    modules: tuple[Any, ...]
    arguments: tuple[tuple[Any, ...], ...]
    work: Work

    def calls(self, work: Callable[..., object] | None = None) -> list[Callable[[], object]]:
        """The modules' own calls, or those of one function on the same arguments."""
        return [
            functools.partial(work or module, *args) for module, args in zip(self.modules, self.arguments, strict=True)
        ]


def subject_layers(model: Model, device: torch.device) -> int:
    """As many layers as make each large weight of a layer, taken from all of them, larger than twice the cache."""
    layer = build_unbound(model, torch.device("meta"), 1).get_submodule("model.layers.0")
    sizes = [p.numel() * p.dtype.itemsize for p in layer.parameters()]
    least = min((size for size in sizes if size >= _WEIGHT), default=_WEIGHT)
    enough = max(2, min(_MOST_LAYERS, math.ceil(2 * cache_bytes(device) / least)))
    return min(enough, model.config.num_hidden_layers)


def open_scene(subject: Subject, query_lens: Sequence[int], context_lens: Sequence[int]) -> Scene:
    """A batch of given lengths, its context filled by the model."""
    return Scene(subject, f"{list(query_lens)[:4]}", query_lens, context_lens, random.Random(0))


def scene_of(subject: Subject, phase: Phase) -> Scene:
    return open_scene(subject, [phase.query_len] * phase.batch, [phase.context_len] * phase.batch)


def cases_of(model: Model, phase: Phase) -> list[Case]:
    """All distinct calls of L1 to L3 operators in a pass of the phase."""
    return [case for case in trace(model, phase).cases if not case.operator.startswith("L4/")]


def prepare(scene: Scene, paths: Sequence[str]) -> Prepared | None:
    """Records calls of the submodules at `paths`, and copies their arguments into rotating buffers.

    Returns:
        None if the subject's depth has none of them.
    """
    depth = scene.subject.num_layers
    known = dict(scene.subject.module.named_modules())
    wanted = {path: min(count, depth) for path, count in Counter(paths).items() if path in known}
    if not wanted:
        return None
    calls = scene.record(wanted)
    moved, pages = own_bytes(scene, calls[0]), _handed_pages(scene, calls[0])
    touched = moved + sum(scene.kv.tensor(ref).nbytes for ref in pages)
    count = max(len(calls), min(_MOST_SETS, math.ceil(2 * cache_bytes(scene.subject.device) / max(touched, 1))))
    sets = [calls[index % len(calls)] for index in range(count)]
    modules = tuple(known[call.path] for call in sets)
    arguments = tuple(
        tuple(_argument(scene, call, argument, again=index >= len(calls)) for argument in call.arguments)
        for index, call in enumerate(sets)
    )
    work = work_of(scene, calls[0])
    flops = work.flops + attention_flops(scene, modules[0])
    return Prepared(calls[0].path, modules, arguments, Work(work.bytes + _rows_read(modules[0], arguments[0]), flops))


def prepare_chains(
    scene: Scene, paths: Sequence[str], work: Callable[..., object] | None = None
) -> tuple[list[Callable[[], object]], Work]:
    """Calls of submodules layer by layer, in the order of the pass: one function runs a layer's, layers take turns.

    Args:
        scene: where they are recorded.
        paths: of submodules that each run once a pass.
        work: what runs instead, on the same arguments; None is the modules themselves.

    Returns:
        A function for each layer, and what one must do.
    """
    known = dict(scene.subject.module.named_modules())
    layers: dict[int, list[Call]] = {}
    for call in scene.record({path: 1 for path in paths if path in known}):
        layers.setdefault(layer_index(call.path), []).append(call)

    def bound(calls: Sequence[Call]) -> Callable[[], object]:
        chain = [(work or known[c.path], [_argument(scene, c, a, again=False) for a in c.arguments]) for c in calls]
        return lambda: [run(*arguments) for run, arguments in chain]

    parts = [work_of(scene, call) for call in layers[0]]
    total = Work(sum(part.bytes for part in parts), sum(part.flops for part in parts))
    return [bound(calls) for calls in layers.values()], total


def attention_flops(scene: Scene, module: Any) -> int:
    """Operations of q K^T and of the weights times V, of visible pairs alone."""
    kind = FlashAttnDecode if scene.graph else FlashAttnPrefill
    total = 0
    for part in module.modules():
        if isinstance(part, kind):
            window = part.sliding_window or 1 << 40
            lengths = scene.batch.metadata.seq_lens.tolist()
            pairs = sum(
                sum(min(seen, window) for seen in range(length - query + 1, length + 1))
                for query, length in zip(scene.query_lens, lengths, strict=True)
            )
            total += 4 * part.num_heads * part.head_size * pairs
    return total


def label_of(case: Case, others: Sequence[Case]) -> str:
    """What tells a case from the operator's others: its module's or its owner's name, a layer's number if need be."""
    names = [_name(other) for other in others if other.operator == case.operator]
    layer = re.search(r"layers\.(\d+)", case.paths[0])
    return f"{_name(case)} {layer[1]}" if names.count(_name(case)) > 1 and layer else _name(case)


def _name(case: Case) -> str:
    parts = [part for part in case.paths[0].split(".") if part != "model"]
    if case.operator.startswith("L3/"):
        return "layer"
    return parts[-2] if case.operator == "L1/linear" else parts[-1]


def _handed_pages(scene: Scene, call: Call) -> set[Any]:
    return {a.ref for a in call.arguments if isinstance(a, Shared)} & scene.pages


def _rows_read(module: nn.Module, arguments: Sequence[Any]) -> int:
    """Bytes of a table that a look-up reads, each row once: the referee's bound, which no ids may move, has none."""
    if type(module) not in (Embedding, VocabParallelEmbedding):
        return 0
    ids, weight = arguments if isinstance(module, Embedding) else (*arguments, module.weight)
    return int(ids.unique().numel()) * weight[0].nbytes


def _argument(scene: Scene, call: Call, argument: Argument, *, again: bool) -> Any:
    """A tensor of its own, fresh token ids where tables are looked up; of weights and pages the scene's, once."""
    if isinstance(argument, Given):
        tensor = same_layout(argument.tensor)
        if again and "embed" in call.path and tensor.dtype == torch.int64:
            scene.draw_tokens(tensor)
        return tensor
    if isinstance(argument, Shared):
        if argument.ref not in scene.pages:
            return scene.subject.weights.tensor(argument.ref)
        pages = scene.kv.tensor(argument.ref)
        return pages.clone() if again else pages
    if isinstance(argument, Ambient):
        return metadata_tensors(scene.batch.metadata)[argument.name].clone()
    return argument
