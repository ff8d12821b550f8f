"""How a scene's KV pages lie in players' memory: in an order that can be drawn anew, while the referee's own stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fastkernels_gym.referee.arena import Slab
    from fastkernels_gym.referee.scene import Scene

BLOCK_SIZE = 16


class PageOrder:
    """One order of a scene's pages.

    Args:
        scene: whose pages.
        sources: (pages,) int64; which of the referee's pages each place of a slab holds.
    """

    def __init__(self, scene: Scene, sources: torch.Tensor) -> None:
        self._scene, self._sources = scene, sources
        self._places = torch.argsort(sources)

    def table(self, block_table: torch.Tensor) -> torch.Tensor:
        """A block table of the referee's, any shape, as players are given it."""
        return self._places[block_table.long()].to(block_table.dtype)

    def slots(self, slot_mapping: torch.Tensor) -> torch.Tensor:
        """Slots of the referee's pages, (tokens,) int64, as players are given them."""
        return self._places[slot_mapping // BLOCK_SIZE] * BLOCK_SIZE + slot_mapping % BLOCK_SIZE

    def fill(self, slab: Slab) -> None:
        """Copies all pages to a player, in this order; allocates nothing."""
        words = self._scene.words
        torch.index_select(self._scene.kv.tensor(words), 1, self._sources, out=slab.tensor(words))

    def blank(self, slab: Slab, layers: set[int], shifts: int = 0) -> None:
        """Puts NaN where a pass writes the keys and values of some layers, and in so many rows behind it."""
        scene = self._scene
        slots = _and_behind(self.slots(scene.batch.metadata.slot_mapping), shifts)
        if len(layers) == len(scene.kv_refs):
            slab.tensor(scene.caches).flatten(1, 2).index_fill_(1, slots, torch.nan)
            return
        for layer in layers:
            for ref in scene.kv_refs[layer]:
                slab.tensor(ref).flatten(0, 1).index_fill_(0, slots, torch.nan)

    def intact(self, slab: Slab, layer: int | None = None) -> bool:
        """Whether a player's pages, or those of one layer, are untouched but for its pass's rows and spare ones."""
        scene = self._scene
        slots = _and_behind(scene.batch.metadata.slot_mapping, scene.spare_rows)
        originals, copies = scene.kv.tensor(scene.words), slab.tensor(scene.words)
        layers = range(len(scene.kv_refs)) if layer is None else (layer,)
        for index, ref in ((2 * i + half, ref) for i in layers for half, ref in enumerate(scene.kv_refs[i])):
            written = slab.tensor(ref).flatten(0, 1)
            written[self.slots(slots)] = scene.kv.tensor(ref).flatten(0, 1)[slots]
            if not torch.equal(copies[index], originals[index].index_select(0, self._sources)):
                return False
        return True


def _and_behind(slots: torch.Tensor, rows: int) -> torch.Tensor:
    """Slots, (tokens,) int64, and so many behind each: (tokens * (rows + 1),)."""
    return (slots[:, None] + torch.arange(rows + 1, device=slots.device)).flatten()
