"""Where players say that their outputs are: in the arena, or in allocations of their own that are mapped here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.player.memory import DeviceSlab, dtype_name, view
from fastkernels_gym.player.protocol import ProtocolError, TensorRef
from fastkernels_gym.referee.arena import Slab
from fastkernels_gym.referee.program import Program
from fastkernels_gym.results import Verdict

_MAX_SEGMENTS = 4096


class Sources:
    """The tensors that one player names; what it names wrongly is tampering.

    Args:
        slabs: that it shares, by name.
        weights: the slab that all players read.
        device: of them all.
    """

    def __init__(self, slabs: Mapping[str, Slab], weights: Slab, device: torch.device) -> None:
        self._slabs, self._weights, self._device = slabs, weights, device
        self._segments: dict[str, DeviceSlab] = {}

    def of(self, program: Program, places: Any) -> list[torch.Tensor]:
        """One tensor for each output of each call.

        Raises:
            CandidateFault: protocol_tamper.
        """
        with _tampering():
            return self._named(program, places)

    def known(self, program: Program, places: Any) -> dict[int, list[torch.Tensor]]:
        """The tensors that hold a burst's outputs, by its length: those of the player's graph, on a CPU their slots.

        Raises:
            CandidateFault: protocol_tamper.
        """
        with _tampering():
            if not isinstance(places, dict) or not set(places) <= {str(n) for n in program.lengths}:
                raise ProtocolError("graphs are not named")
            named = {int(n): self._named(program, where) for n, where in places.items()}
        if self._device.type == "cuda":
            return named
        slab = self._slabs[program.region.name]
        slots = [slab.tensor(ref) for call in program.out for ref in call if ref is not None and ref.span > 0]
        return dict.fromkeys(program.lengths, slots)

    def close(self) -> None:
        """Unmaps the player's allocations: memory that is mapped here stays taken when the player gives it back."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    def _named(self, program: Program, places: Any) -> list[torch.Tensor]:
        if not isinstance(places, list) or len(places) != len(program.calls):
            raise ProtocolError("outputs are not named")
        sources = []
        for named in places:
            if not isinstance(named, list) or len(named) != len(program.layout):
                raise ProtocolError("outputs are not named")
            for place, like in zip(named, program.layout, strict=True):
                if like is not None and like.numel():
                    sources.append(self._find(place, like))
        return sources

    def _find(self, place: Mapping[str, Any], like: torch.Tensor) -> torch.Tensor:
        """A player's output, wherever it put it."""
        ref = TensorRef.from_json(place)
        if ref.shape != tuple(like.shape) or ref.dtype != dtype_name(like.dtype):
            raise ProtocolError("an output of another shape or dtype than before")
        if ref.slab in self._slabs:
            return self._slabs[ref.slab].tensor(ref)
        if ref.slab == self._weights.region.name:
            return self._weights.tensor(ref)
        if ref.slab not in self._segments:
            if len(self._segments) >= _MAX_SEGMENTS:
                raise ProtocolError("too many allocations")
            try:
                handle = bytes.fromhex(ref.slab)
            except ValueError as error:
                raise ProtocolError("not a memory handle") from error
            self._segments[ref.slab] = DeviceSlab.open(handle, self._device)
        return view(self._segments[ref.slab].bytes, ref)


@contextmanager
def _tampering() -> Iterator[None]:
    """What a player names wrongly is tampering."""
    try:
        yield
    except ProtocolError as error:
        raise CandidateFault(Verdict.PROTOCOL_TAMPER, str(error)) from None
