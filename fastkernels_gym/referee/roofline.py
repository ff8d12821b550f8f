"""What a call cannot do without: the bytes it must move, the products it must compute.

What a call must move is each input read once and each output written once; of pages, the tokens that the sequences hold
and a window shows; of a mixture's weights, the experts that a token chose; of an embedding's table nothing, as its rows
may repeat. Products are the reference's dense matrix products; attention's are left out, which makes every bound on its
time a generous one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastkernels_gym.catalog.work import Work
from fastkernels_gym.referee.running import run_baseline
from fastkernels_gym.referee.scene import Ambient, Call, Given, Scene, Shared, metadata_tensors
from fastkernels_gym.tasks.baseline.forward_context import reference_mode
from fastkernels_gym.tasks.baseline.L1.flash_attn_decode import FlashAttnDecode
from fastkernels_gym.tasks.baseline.L1.grouped_gemm import GroupedGemm
from fastkernels_gym.tasks.baseline.L2.fused_moe import FusedMoE

_DENSE = ("aten.mm", "aten.addmm")


def work_of(scene: Scene, call: Call) -> Work:
    """Of one call of a submodule."""
    flops, unread = _products(scene, call)
    moved = own_bytes(scene, call) + _page_bytes(scene, call)
    if flops:
        moved += _weight_bytes(scene, call) - unread
    # Else no weight but a table, whose rows may repeat.
    return Work(moved, flops)


def work_of_pass(scene: Scene) -> Work:
    """Of a pass of the full model: weights of its layers and head, none of an expert's, and their products."""
    module: Any = scene.subject.module
    experts = {id(weight) for part in module.modules() if isinstance(part, FusedMoE) for weight in part.parameters()}
    layers = [weight for weight in module.model.layers.parameters() if id(weight) not in experts]
    moved, head = sum(weight.nbytes for weight in layers), module.lm_head.weight
    a_token = 2 * sum(weight.numel() for weight in layers if weight.dim() == 2)
    flops = a_token * scene.batch.input_ids.numel() + 2 * head.numel() * scene.batch.metadata.seq_lens.numel()
    return Work(moved + head.nbytes, flops)


def own_bytes(scene: Scene, call: Call) -> int:
    """Bytes of a call's own inputs and outputs: neither weights nor pages."""
    given = [a.tensor for a in call.arguments if isinstance(a, Given)]
    given += [metadata_tensors(scene.batch.metadata)[a.name] for a in call.arguments if isinstance(a, Ambient)]
    outputs = [t for t in run_baseline(scene, call) if t is not None]
    return sum(t.numel() * t.dtype.itemsize for t in (*given, *outputs))


def _weight_bytes(scene: Scene, call: Call) -> int:
    handed = {a.ref for a in call.arguments if isinstance(a, Shared)} - scene.pages
    parameters = scene.subject.module.get_submodule(call.path).parameters()
    own = sum(p.numel() * p.dtype.itemsize for p in parameters)
    return own + sum(scene.subject.weights.tensor(ref).nbytes for ref in handed)


def _page_bytes(scene: Scene, call: Call) -> int:
    """Keys and values that one call touches: all of its sequences' when it decodes, the new ones when it stores."""
    keys = scene.kv_caches[0][0]
    token = 2 * keys[0, 0].numel() * keys.dtype.itemsize
    writes = scene.subject.writes_kv(call.path)
    handed = any(isinstance(a, Shared) and a.ref in scene.pages for a in call.arguments)
    stores_alone = writes and handed
    if scene.graph and (writes or handed) and not stores_alone:
        modules = scene.subject.module.get_submodule(call.path).modules()
        windows = [m.sliding_window for m in modules if isinstance(m, FlashAttnDecode) and m.sliding_window]
        seen = scene.batch.metadata.seq_lens
        return token * int((seen.clamp(max=min(windows)) if windows else seen).sum())
    return token * scene.batch.metadata.slot_mapping.numel() if writes else 0


def _products(scene: Scene, call: Call) -> tuple[int, int]:
    """Operations of the reference's dense matrix products, and bytes of the experts that no token chose."""
    counter = FlopCounterMode(display=False)
    with unread_experts(scene.subject.module.get_submodule(call.path)) as unread, counter, reference_mode():
        run_baseline(scene, call)
    counts = counter.get_flop_counts().get("Global", {})
    return sum(n for operation, n in counts.items() if str(operation) in _DENSE), sum(unread)


@contextmanager
def unread_experts(module: nn.Module) -> Iterator[list[int]]:
    """Yields, for each grouped product that runs within, the bytes of the experts that no token chose."""
    unread: list[int] = []

    def choose(_: Any, args: tuple[Any, ...]) -> None:
        _, weight, _, _, experts, used, _, block_size = args
        chosen = experts[: int(used) // block_size].unique().numel()
        unread.append((weight.shape[0] - chosen) * weight[0].nbytes)

    hooks = [m.register_forward_pre_hook(choose) for m in module.modules() if isinstance(m, GroupedGemm)]
    try:
        yield unread
    finally:
        for hook in hooks:
            hook.remove()
