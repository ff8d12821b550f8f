"""What a player says that its outputs look like, held against the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.player.memory import dtype_name
from fastkernels_gym.referee.judging import Outputs
from fastkernels_gym.results import Verdict


def check_outputs(
    described: Any, calls: int, layout: Outputs, lent: set[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    """Checks a program's outputs, call by call.

    Args:
        described: what the player sent.
        calls: of the program.
        layout: a call's outputs, as the baseline gives them.
        lent: shape and strides of arguments in whose place an output may lie.

    Raises:
        CandidateFault: wrong_shape, wrong_dtype, or protocol_tamper where it is no description.
    """
    if not isinstance(described, list) or len(described) != calls:
        raise CandidateFault(Verdict.PROTOCOL_TAMPER, "outputs are not described")
    for outputs in described:
        if not isinstance(outputs, list):
            raise CandidateFault(Verdict.PROTOCOL_TAMPER, "outputs are not described")
        if len(outputs) != len(layout):
            raise CandidateFault(Verdict.WRONG_SHAPE, f"{len(outputs)} outputs, expected {len(layout)}")
        for index, (said, expected) in enumerate(zip(outputs, layout, strict=True)):
            _check_output(index, said, expected, lent)


def _check_output(
    index: int, said: Any, expected: torch.Tensor | None, lent: set[tuple[tuple[int, ...], tuple[int, ...]]]
) -> None:
    if said is None or expected is None:
        if said is not None or expected is not None:
            raise CandidateFault(Verdict.WRONG_SHAPE, f"output {index} is {'None' if said is None else 'a tensor'}")
        return
    try:
        shape, stride, dtype, device = tuple(said["shape"]), tuple(said["stride"]), said["dtype"], said["device"]
    except (KeyError, TypeError) as error:
        raise CandidateFault(Verdict.PROTOCOL_TAMPER, "an output is not described") from error
    if shape != tuple(expected.shape):
        raise CandidateFault(
            Verdict.WRONG_SHAPE, f"output {index} has shape {list(shape)}, expected {list(expected.shape)}"
        )
    if dtype != dtype_name(expected.dtype):
        raise CandidateFault(Verdict.WRONG_DTYPE, f"output {index} is {dtype}, expected {dtype_name(expected.dtype)}")
    if device != expected.device.type:
        raise CandidateFault(Verdict.WRONG_DTYPE, f"output {index} is on {device}, expected {expected.device.type}")
    if len(stride) != len(shape) or not all(type(step) is int for step in stride):
        raise CandidateFault(Verdict.PROTOCOL_TAMPER, "an output is not described")
    contiguous = torch.empty(expected.shape, device="meta").stride()
    if (
        expected.is_contiguous()
        and expected.numel() > 0
        and _differs(shape, stride, contiguous)
        and (shape, stride) not in lent
    ):
        raise CandidateFault(Verdict.WRONG_SHAPE, f"output {index} has strides {list(stride)}, expected it contiguous")


def _differs(shape: Sequence[int], stride: Sequence[int], contiguous: Sequence[int]) -> bool:
    """Whether strides differ where they matter: a dimension of size one may have any."""
    return any(size > 1 and a != b for size, a, b in zip(shape, stride, contiguous, strict=True))
