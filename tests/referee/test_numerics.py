"""As accurate as production: what passes and what does not."""

from __future__ import annotations

import pytest
import torch

from fastkernels_gym.referee import numerics


@pytest.fixture
def oracle() -> torch.Tensor:
    return torch.randn(64, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_rounded_oracle_passes_and_a_coarser_one_does_not(oracle: torch.Tensor, dtype: torch.dtype) -> None:
    rounded = oracle.to(dtype)
    assert numerics.error_ratio(rounded, rounded, oracle).passes
    coarser = (oracle * (1 + 8 * torch.finfo(dtype).eps)).to(dtype)
    assert not numerics.error_ratio(coarser, rounded, oracle).passes


def test_more_accurate_than_the_baseline_passes(oracle: torch.Tensor) -> None:
    sloppy = oracle.float() + 1e-4
    assert numerics.error_ratio(oracle.float(), sloppy, oracle).rms < 0.01


def test_one_wrong_element_fails(oracle: torch.Tensor) -> None:
    wrong = oracle.float()
    wrong[3, 5] += 0.1
    assert not numerics.error_ratio(wrong, oracle.float(), oracle).passes


def test_one_row_by_itself_is_no_statistic_and_many_are() -> None:
    """An equally accurate norm, its sum in another order: what a row shares errs once a row."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 64, generator=generator) * torch.exp(1.5 * torch.randn(4096, 64, generator=generator))
    baseline = x * torch.rsqrt(x.square().mean(-1, keepdim=True))
    squares = x.square()
    while squares.shape[1] > 1:
        squares = squares[:, ::2] + squares[:, 1::2]
    candidate = x * (1 / torch.sqrt(squares / 64))
    oracle = x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True))
    rows = [numerics.errors(*of) for of in zip(candidate, baseline, oracle, strict=True)]
    assert sum(not numerics.together([row]).passes for row in rows) > 10
    for first in range(0, len(rows), numerics.FEWEST_ROWS):
        assert numerics.together(rows[first : first + numerics.FEWEST_ROWS]).passes


def test_a_large_call_does_not_hide_the_error_of_a_small_one(oracle: torch.Tensor) -> None:
    rounded, coarse = oracle.float(), (oracle * (1 + 3e-7)).float()
    calls = [(rounded * 2**20, rounded * 2**20, oracle * 2**20), (coarse, rounded, oracle)]
    assert not numerics.together([numerics.errors(*call) for call in calls]).passes


def test_zeros_are_judged_exactly(oracle: torch.Tensor) -> None:
    zeros = torch.zeros_like(oracle)
    assert numerics.error_ratio(zeros.float(), zeros.float(), zeros) == numerics.ErrorRatio(0.0, 0.0)
    assert not numerics.error_ratio(zeros.float() + 1e-20, zeros.float(), zeros).passes


def test_nan_and_infinities_keep_their_places(oracle: torch.Tensor) -> None:
    baseline = oracle.float()
    baseline[0, 0], baseline[1, 1], baseline[2, 2] = torch.nan, torch.inf, -torch.inf
    assert numerics.same_places(baseline.clone(), baseline)
    for place, value in (((0, 0), 1.0), ((1, 1), -torch.inf), ((5, 5), torch.nan)):
        moved = baseline.clone()
        moved[place] = value
        assert not numerics.same_places(moved, baseline)


def test_a_baseline_that_is_off_judges_nobody(oracle: torch.Tensor) -> None:
    assert not numerics.baseline_is_off(oracle.bfloat16(), oracle)
    assert numerics.baseline_is_off((oracle * 1.1).bfloat16(), oracle)
    overflown = oracle.float()
    overflown[0, 0] = torch.inf
    assert numerics.baseline_is_off(overflown, oracle)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_an_ulp_is_half_the_step_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, 2.0, -3.0, 0.1, 1000.0], dtype=dtype)
    step = values.abs() * (1 + torch.finfo(dtype).eps) - values.abs()
    half = numerics.half_ulp(values.double(), dtype)
    assert torch.all(half <= step.double()) and torch.all(half >= step.double() / 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_call_of_hundreds_that_was_left_out_is_far_off(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(4, 96, generator=generator, dtype=torch.float64) for _ in range(512)]
    baseline = [one.to(dtype) for one in exact]
    floor = max(numerics.floor_of(one, truth) for one, truth in zip(baseline, exact, strict=True))
    eps = torch.finfo(dtype).eps
    candidate = [(one * (1 + eps * torch.randn(4, 96, generator=generator))).to(dtype) for one in exact]
    allowed = numerics.EVERY_CALL * numerics.PAIR_RATIO
    assert numerics.distances(candidate, baseline, floor).max() < allowed / 4
    assert numerics.distances(baseline, baseline, floor).max() == 0
    stale = exact[7] * torch.empty(4, 96).uniform_(0.5, 1.5, generator=generator)
    found = numerics.distances([*candidate[:7], stale.to(dtype), *candidate[8:]], baseline, floor)
    assert found.argmax() == 7 and found.max() > 2 * allowed
    for value in (torch.nan, torch.inf):
        unfit = torch.full((4, 96), value, dtype=dtype)
        assert numerics.distances([*candidate[:7], unfit, *candidate[8:]], baseline, floor)[7] == torch.inf
    zeros = [torch.zeros(4, 96, dtype=dtype)]
    assert numerics.distances(zeros, zeros, floor) == 0
    assert numerics.distances([zeros[0] + 1], zeros, floor) == torch.inf
