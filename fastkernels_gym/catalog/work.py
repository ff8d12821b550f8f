"""The least work of a call: the bytes that it must move, the products that it must compute; counted on meta.

What the referee's bound counts (`referee/roofline.py`), without a device: each input read once and each output written
once; of pages, the tokens that the sequences hold and a window shows; weights where they are multiplied. Of a table
nothing is counted: its rows may repeat. Products are the reference's dense matrix products; attention's own are left
out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastkernels_gym.tasks.baseline.forward_context import ForwardContext
from fastkernels_gym.tasks.baseline.L1.flash_attn_decode import FlashAttnDecode

_DENSE = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


@dataclass(frozen=True, slots=True)
class Work:
    """What one call takes at the least.

    Args:
        bytes: read and written.
        flops: floating-point operations of dense matrix products.
    """

    bytes: int = 0
    flops: int = 0

    def least_seconds(self, bytes_per_s: float, flops_per_s: float | None) -> float | None:
        """The bound on a device with these ceilings; None where products have none that is known."""
        if self.flops and flops_per_s is None:
            return None
        return max(self.bytes / bytes_per_s, self.flops / flops_per_s if flops_per_s else 0.0)


class DenseProducts(TorchDispatchMode):
    """Within it, counts the operations of dense matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in _DENSE:
            left, right = args[-2:]
            self.flops += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        return function(*args, **(kwargs or {}))


class Movement:
    """The bytes of calls in one pass of a model.

    Args:
        model: the model.
        context: of the pass.
    """

    def __init__(self, model: nn.Module, context: ForwardContext) -> None:
        self._weights = {id(parameter) for parameter in model.parameters()}
        self._pages = {id(page) for pair in context.kv_caches for page in pair}
        self._metadata = context.attn_metadata
        keys = context.kv_caches[0][0]
        self._token = 2 * keys[0, 0].numel() * keys.dtype.itemsize

    def of(self, module: nn.Module, arguments: Iterable[Any], outputs: Any, *, products: bool) -> int:
        """Bytes of one call.

        Args:
            module: what is called.
            arguments: of the call.
            outputs: what it returned.
            products: whether it multiplies by weights.
        """
        given = list(_tensors(arguments))
        handed = [tensor for tensor in given if id(tensor) in self._weights]
        pages = any(id(tensor) in self._pages for tensor in given)
        own = [tensor for tensor in given if id(tensor) not in self._weights | self._pages]
        moved = _size(own) + _size(_tensors([outputs])) + self._paged(module, pages)
        # Else no weight but a table, whose rows may repeat.
        return moved + (_size(module.parameters()) + _size(handed) if products else 0)

    def _paged(self, module: nn.Module, handed: bool) -> int:
        """Keys and values that one call touches: those of its sequences when it decodes, new ones when it stores."""
        parts = list(module.modules())
        stores = sum("key_cache" in getattr(part, "mutates", ()) for part in parts)
        decoders = [part for part in parts if isinstance(part, FlashAttnDecode)]
        if self._metadata.max_query_len == 1 and decoders and (stores or handed):
            seen = self._metadata.seq_lens
            windows = [part.sliding_window or self._metadata.max_seq_len for part in decoders]
            return self._token * sum(int(seen.clamp(max=window).sum()) for window in windows)
        return self._token * stores * self._metadata.slot_mapping.numel()


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.dtype.itemsize for tensor in tensors)
