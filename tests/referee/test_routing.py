"""Rows whose routing hangs on less than the router's noise leave the ratio, and no others."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee import numerics
from fastkernels_gym.referee.judging import Expected, judge
from fastkernels_gym.referee.routing import Routers
from fastkernels_gym.results import Verdict
from fastkernels_gym.tasks.baseline.L1.moe_align_block_size import MoeAlignBlockSize
from fastkernels_gym.tasks.baseline.L1.topk_softmax import TopkSoftmax


class Block(nn.Module):
    """A router within a larger operator."""

    def __init__(self) -> None:
        super().__init__()
        self.router = TopkSoftmax(2)

    def forward(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights, ids = self.router(scores)
        return weights, ids


def unsettled(module: nn.Module, rows: Sequence[Sequence[float]], noise: float) -> list[bool] | None:
    """What leaves where the baseline's scores are off by `noise`, up and down by turns."""
    truth = torch.tensor(rows, dtype=torch.float64)
    off = torch.where(torch.arange(truth.numel()).view_as(truth) % 2 == 0, noise, -noise)
    routers, heard = Routers(module), []
    for scores in (truth + off, truth):
        with routers.heard() as found:
            module(scores)
        heard.append(found)
    leaving = routers.unsettled(*heard)
    return None if leaving is None else leaving.tolist()


def test_only_decisions_within_the_noise_are_unsettled() -> None:
    far, near = [3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.999, 0.0]
    assert unsettled(Block(), [far, near, far, far], 1e-3) == [False, True, False, False]
    assert unsettled(Block(), [far, near, far, far], 1e-6) is None
    assert unsettled(Block(), [far, far], 1e-3) is None


def test_a_ties_winner_is_no_question_of_noise() -> None:
    assert unsettled(Block(), [[3.0, 2.0, 2.0, 0.0]] * 2, 1e-3) is None


def test_a_tie_in_what_a_baseline_rounded_may_be_a_near_one() -> None:
    scores = [torch.tensor([[3.0, 2.0, 2.0, 0.0], [3.0, 2.0, 1.0, 0.0]], dtype=torch.float64)]
    for module, rounded, leaving in (
        *((Block(), False, None), (Block(), True, [True, False])),
        (TopkSoftmax(2), True, None),  # it is handed its scores
    ):
        found = Routers(module).near_ties(scores, (1e-3,), rounded=rounded)
        assert (None if found is None else found.tolist()) == leaving


def test_the_order_of_the_chosen_counts_for_the_router_alone() -> None:
    swapped = [[2.0005, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]]
    assert unsettled(Block(), swapped, 1e-3) is None
    assert unsettled(TopkSoftmax(2), swapped, 1e-3) == [True, False]


def test_the_rows_that_leave_are_capped_and_the_closest() -> None:
    rows = [[3.0, 2.0, 2.0 - gap, 0.0] for gap in (4e-4, 1e-4, 3e-4, 2e-4)]
    assert unsettled(Block(), rows, 1e-3) == [False, True, False, True]
    assert numerics.MOST_UNSETTLED == 0.5


def test_a_model_without_routers_has_no_unsettled_rows() -> None:
    assert unsettled(nn.Identity(), [[1.0, 1.0 + 1e-9]], 1e-3) is None


def expected(leaving: Sequence[bool] | None) -> Expected:
    oracle = torch.linspace(1, 2, 12, dtype=torch.float64).view(3, 4)
    rows = None if leaving is None else torch.tensor(leaving)
    return Expected((oracle.float(), torch.arange(3)), (oracle, torch.arange(3)), rows)


def test_unsettled_rows_may_differ_as_another_expert_would_and_no_further() -> None:
    truth = expected(None)
    other, ids = truth.baseline[0].clone(), torch.arange(3)
    other[1] *= 1.3
    ids[1] = 7
    for outputs in ((other, torch.arange(3)), (truth.baseline[0], ids)):
        assert judge("x", outputs, expected([False, True, False])).passes
        for leaving in (None, [True, False, False]):
            with pytest.raises(CandidateFault) as caught:
                judge("x", outputs, expected(leaving))
            assert caught.value.verdict is Verdict.WRONG_VALUE
    skipped = truth.baseline[0].clone()
    for nothing in (0.0, float("nan")):
        skipped[1] = nothing
        with pytest.raises(CandidateFault, match="close to a tie"):
            judge("x", (skipped, torch.arange(3)), expected([False, True, False]))


def test_alignments_are_judged_whatever_their_order_within_an_expert() -> None:
    found = MoeAlignBlockSize()(torch.tensor([[0, 1], [1, 2], [1, 0]], dtype=torch.int32), 4, 3)
    truth = Expected(found, found, None, MoeAlignBlockSize.canonical)
    shuffled = found[0].clone()
    shuffled[4:8] = found[0][4:8].flip(0)
    assert judge("x", (shuffled, *found[1:]), truth).passes
    for hostile in (torch.zeros_like(found[0]), torch.full_like(found[0], -(2**31)), found[0] + 1):
        with pytest.raises(CandidateFault):
            judge("x", (hostile, *found[1:]), truth)
    for count in (0, -5, 2**31 - 1):
        with pytest.raises(CandidateFault):
            judge("x", (*found[:2], torch.tensor([count], dtype=torch.int32)), truth)
