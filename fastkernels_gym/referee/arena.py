"""Memory that the referee shares with a player: regions, each a layout with the referee's private original.

What lies in a slab is a copy, and hostile as soon as a player has it. The original, the mirror, never leaves the
referee: revealing is one copy from mirror to slab. Where a player must not see it yet, a decoy is revealed instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastkernels_gym.player.memory import ALIGNMENT, DeviceSlab, HostSlab, dtype_name, view
from fastkernels_gym.player.protocol import TensorRef

_CHUNK = 1 << 28  # bytes compared at a time: equality makes a temporary of the same size


class Region:
    """Tensors laid out in one slab: reserve them all, allocate, fill the mirror, share.

    Args:
        name: the slab's name in messages.
        device: where mirror and slabs live.
        revealed: False for memory that only players write: it has no original.
    """

    def __init__(self, name: str, device: torch.device, *, revealed: bool = True) -> None:
        self.name, self.device, self.revealed, self.nbytes = name, device, revealed, 0
        self._mirror: torch.Tensor | None = None
        self._decoy: torch.Tensor | None = None

    def reserve(self, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> TensorRef:
        ref = TensorRef(self.name, self.nbytes, tuple(shape), tuple(stride), dtype_name(dtype))
        self.nbytes += -(-ref.span * dtype.itemsize // ALIGNMENT) * ALIGNMENT
        return ref

    def reserve_like(self, tensor: torch.Tensor) -> TensorRef:
        return self.reserve(tensor.shape, tensor.stride(), tensor.dtype)

    @property
    def mirror(self) -> torch.Tensor:
        """The referee's private bytes, allocated at the first use."""
        if self._mirror is None:
            self.nbytes = max(self.nbytes, ALIGNMENT)
            self._mirror = torch.zeros(self.nbytes, dtype=torch.uint8, device=self.device)
        return self._mirror

    @property
    def decoy(self) -> torch.Tensor:
        """Private bytes as well, a copy of the mirror at first."""
        if self._decoy is None:
            self._decoy = self.mirror.clone()
        return self._decoy

    def swap(self) -> None:
        """Makes the mirror the decoy, and the decoy the mirror."""
        self._mirror, self._decoy = self.decoy, self.mirror

    def tensor(self, ref: TensorRef) -> torch.Tensor:
        """The private original of a tensor."""
        return view(self.mirror, ref)

    def new_slab(self, *, read_only: bool = False) -> Slab:
        """A slab of this layout that holds a copy of the mirror, if there is one."""
        assert not self.revealed or self.mirror is not None
        slab = Slab(self, read_only)
        if self.revealed:
            slab.reveal()
        return slab


class Slab:
    """One player's copy of a region."""

    def __init__(self, region: Region, read_only: bool) -> None:
        self.region, self.read_only = region, read_only
        self._memory: HostSlab | DeviceSlab
        if region.device.type == "cuda":
            self._memory = DeviceSlab.create(region.nbytes, region.device)
        else:
            self._memory = HostSlab.create(region.nbytes, read_only=read_only)

    @property
    def bytes(self) -> torch.Tensor:
        return self._memory.bytes

    def reveal(self, private: torch.Tensor | None = None) -> None:
        """Copies the mirror to the player, or what is given in its place."""
        self.bytes.copy_(self.region.mirror if private is None else private)

    def tensor(self, ref: TensorRef) -> torch.Tensor:
        """The player's copy of a tensor.

        Raises:
            ProtocolError: if the reference leaves the slab.
        """
        return view(self.bytes, ref)

    def intact(self, ref: TensorRef | None = None) -> bool:
        """Whether the copy, or one tensor of it, still equals the original bit by bit."""
        if ref is None:
            chunks = zip(self.bytes.split(_CHUNK), self.region.mirror.split(_CHUNK), strict=True)
            return all(torch.equal(theirs, ours) for theirs, ours in chunks)
        ours, theirs = self.region.tensor(ref), self.tensor(ref)
        return torch.equal(_bits(ours), _bits(theirs))

    def message(self) -> tuple[list[object], list[int]]:
        """How a `bind` names this slab, and the descriptors that go with it."""
        entry: list[object] = [self.region.name, self.region.nbytes, not self.read_only]
        if isinstance(self._memory, DeviceSlab):
            return [*entry, self._memory.handle.hex()], []
        return [*entry, None], [self._memory.fd]

    def close(self) -> None:
        self._memory.close()


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as integers, so that NaN equals itself."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.view(integers[tensor.dtype.itemsize])
