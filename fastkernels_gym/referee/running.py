"""A call run by the referee itself: as the baseline does it, and as the oracle does, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fastkernels_gym.referee.judging import Outputs
from fastkernels_gym.referee.scene import Ambient, Argument, Call, Given, Scene, Shared, metadata_tensors, same_layout
from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata, ForwardContext, set_forward_context

Caches = Sequence[tuple[torch.Tensor, torch.Tensor]]


def run_baseline(scene: Scene, call: Call, metadata: AttentionMetadata | None = None) -> Outputs:
    """The baseline's outputs, on copies of the arguments; KV rows go into the scene's own pages."""
    context = ForwardContext(_shifted(metadata or scene.batch.metadata, call), scene.kv_caches)
    return _run(scene, call, [_materialise(scene, a, context, wide=False) for a in call.arguments], context)


def run_oracle(scene: Scene, call: Call, metadata: AttentionMetadata) -> tuple[Outputs, Caches]:
    """The oracle's outputs, and the caches with the KV rows that it wrote."""
    wide = _WideCaches(scene.kv_caches)
    with scene.subject.oracle(call.path):
        context = ForwardContext(_shifted(metadata, call), wide)
        outputs = _run(scene, call, [_materialise(scene, a, context, wide=True) for a in call.arguments], context)
    return outputs, wide


def _shifted(metadata: AttentionMetadata, call: Call) -> AttentionMetadata:
    return replace(metadata, slot_mapping=metadata.slot_mapping + call.shift) if call.shift else metadata


def _run(scene: Scene, call: Call, arguments: list[Any], context: ForwardContext) -> Outputs:
    from fastkernels_gym.engine.batch import Batch
    from fastkernels_gym.engine.step import forward_step

    module: nn.Module = scene.subject.module
    if not call.path:
        input_ids, positions = arguments
        return (forward_step(module, Batch(input_ids, positions, context.attn_metadata), context.kv_caches),)
    with set_forward_context(context):
        result = module.get_submodule(call.path)(*arguments)
    if result is None:
        return ()
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _materialise(scene: Scene, argument: Argument, context: ForwardContext, *, wide: bool) -> Any:
    """The argument as a tensor of the referee's own: a copy where it may be overwritten, widened for the oracle."""
    if isinstance(argument, Given):
        return (
            argument.tensor.double() if wide and argument.tensor.is_floating_point() else same_layout(argument.tensor)
        )
    if isinstance(argument, Shared):
        for layer, pair in enumerate(scene.kv_refs):
            if argument.ref in pair:
                return context.kv_caches[layer][pair.index(argument.ref)]
        tensor = scene.subject.weights.tensor(argument.ref)
        return tensor.double() if wide else tensor
    if isinstance(argument, Ambient):
        return metadata_tensors(context.attn_metadata)[argument.name].clone()
    return argument


class _WideCaches(Sequence[tuple[torch.Tensor, torch.Tensor]]):
    """KV caches widened to float64 one layer at a time: the layer in use is kept, so that its rows can be read back."""

    def __init__(self, caches: Caches) -> None:
        self._caches = caches
        self._held: tuple[int, tuple[torch.Tensor, torch.Tensor]] | None = None

    def __len__(self) -> int:
        return len(self._caches)

    def __getitem__(self, layer: Any) -> Any:
        if self._held is None or self._held[0] != layer:
            keys, values = self._caches[layer]
            self._held = (layer, (keys.double(), values.double()))
        return self._held[1]
