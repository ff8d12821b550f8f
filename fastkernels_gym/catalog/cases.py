"""Cases: the distinct calls that a model makes of an operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fastkernels_gym.catalog.work import Work

Plain: TypeAlias = "str | int | float | bool | None | tuple[Plain, ...] | Mapping[str, Plain]"
"""A value that JSON can hold; sequences are tuples, so that an argument never changes."""


@dataclass(frozen=True, slots=True)
class ArgSpec:
    """One argument of a call: a tensor's layout or a plain value.

    Args:
        name: the parameter's name in the operator's forward.
        shape: a tensor's shape; None for a plain value.
        dtype: a tensor's dtype without its prefix, such as `bfloat16`; None for a plain value.
        stride: a tensor's strides in elements; None for a plain value.
        value: the plain value; modules and other objects stand as their class name.
    """

    name: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    stride: tuple[int, ...] | None = None
    value: Plain = None

    @property
    def is_tensor(self) -> bool:
        return self.shape is not None

    def to_json(self) -> dict[str, Plain]:
        """`{name, shape, dtype, stride}` of a tensor, `{name, value}` of anything else."""
        if self.shape is None:
            return {"name": self.name, "value": self.value}
        return {"name": self.name, "shape": self.shape, "dtype": self.dtype, "stride": self.stride}


@dataclass(frozen=True, slots=True)
class Case:
    """Equal calls of an operator within one pass of a phase.

    Args:
        operator: the operator's id.
        phase: the phase's name.
        n: how often the workload runs the phase.
        count: calls of this case in one pass.
        paths: the module path of each call, in the order of the calls; a shared module appears once a call.
        init: the constructor's arguments by name, as the model gave them; of instances that differ, parts
            included, only in their `prefix`, the first one's.
        args: the call's arguments, by parameter name.
        work: the least work of one call.
    """

    operator: str
    phase: str
    n: int
    count: int
    paths: tuple[str, ...]
    init: Mapping[str, Plain] = field(hash=False)
    args: tuple[ArgSpec, ...]
    work: Work = Work()

    def to_json(self) -> dict[str, Plain]:
        """What an agent is shown of it: `{phase, n, count, init, args}`."""
        args = tuple(arg.to_json() for arg in self.args)
        return {"phase": self.phase, "n": self.n, "count": self.count, "init": self.init, "args": args}
