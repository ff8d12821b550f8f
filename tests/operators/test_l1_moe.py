"""The operators of mixtures of experts: references against their formulas, kernels against the references."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from fastkernels_gym.tasks.baseline.L1.grouped_gemm import GroupedGemm
from fastkernels_gym.tasks.baseline.L1.moe_align_block_size import MoeAlignBlockSize, padded_bound
from fastkernels_gym.tasks.baseline.L1.moe_sum import MoeSum
from fastkernels_gym.tasks.baseline.L1.topk_softmax import TopkSoftmax

# tokens, experts, topk
ROUTINGS = [(1, 4, 2), (7, 8, 2), (33, 20, 8), (5, 3, 1), (9, 128, 8)]


def drawn_ids(tokens: int, experts: int, topk: int) -> torch.Tensor:
    return torch.rand(tokens, experts).topk(topk, dim=-1).indices.to(torch.int32)


@pytest.mark.parametrize(("tokens", "experts", "topk"), ROUTINGS)
@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_softmax_is_the_softmax_of_the_largest(tokens, experts, topk, renormalize) -> None:
    logits = torch.randn(tokens, experts, dtype=torch.float64)
    weights, ids = TopkSoftmax(topk, renormalize)(logits)
    expected, places = logits.softmax(-1).topk(topk)
    if renormalize:
        expected = expected / expected.sum(-1, keepdim=True)
    assert ids.dtype == torch.int32 and torch.equal(ids.long(), places)
    torch.testing.assert_close(weights, expected, rtol=1e-13, atol=1e-14)
    assert TopkSoftmax(topk)(logits.bfloat16())[0].dtype == torch.float32


@pytest.mark.parametrize(("tokens", "experts", "topk"), [*ROUTINGS, (1025, 8, 2), (0, 8, 2)])
@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_softmax_kernel(interpreted, tokens, experts, topk, renormalize) -> None:
    packed = (3 * torch.randn(tokens, experts + 3)).half()
    ties = packed[:, :experts].float().round()  # of zeros of either sign, too
    for logits in (packed[:, :experts], ties, ties.bfloat16()):
        weights, ids = interpreted("topk_softmax.topk_softmax", logits, topk, renormalize)[0]
        expected, places = TopkSoftmax(topk, renormalize)(logits)
        assert torch.equal(ids, places) and ids.dtype == torch.int32
        torch.testing.assert_close(weights, expected)


def test_topk_softmax_kernel_names_an_expert_whatever_the_logits(interpreted) -> None:
    logits = torch.full((3, 5), float("nan"))
    logits[1] = float("-inf")
    logits[2].view(torch.int32).fill_(-1)  # NaN with a sign
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        _, ids = interpreted("topk_softmax.topk_softmax", logits.to(dtype), 2, True)[0]
        assert ((ids >= 0) & (ids < 5)).all() and (ids[:, 0] != ids[:, 1]).all()


def test_margins_say_by_how_much_a_choice_was_won() -> None:
    margins = TopkSoftmax(2).margins(torch.tensor([[1.0, 5.0, 4.0, 3.5], [2.0, 2.0, 2.0, 0.0]]))
    assert margins.tolist() == [[1.0, 0.5], [0.0, 0.0]]


def check_alignment(ids: torch.Tensor, block: int, experts: int, found: Any) -> None:
    """That every choice lies once, with its expert, in blocks of one expert each."""
    order, blocks, total = found
    used = int(total)
    assert {t.dtype for t in found} == {torch.int32} and used % block == 0
    assert order.numel() == padded_bound(ids.numel(), block, experts) == blocks.numel() * block
    assert (order[used:] == ids.numel()).all()
    placed, at = order[:used], torch.arange(used) // block
    real = placed < ids.numel()
    assert placed[real].sort().values.tolist() == list(range(ids.numel()))
    assert torch.equal(ids.flatten()[placed[real].long()], blocks[at[real]])
    assert used == sum(-(-int(n) // block) * block for n in ids.flatten().bincount(minlength=experts))


@pytest.mark.parametrize(("tokens", "experts", "topk"), [*ROUTINGS, (600, 8, 2), (310, 128, 8), (4200, 5, 4)])
@pytest.mark.parametrize("block", [4, 16, 64])
def test_alignment_and_its_kernel(interpreted, tokens, experts, topk, block) -> None:
    ids = drawn_ids(tokens, experts, topk)
    expected = MoeAlignBlockSize()(ids, block, experts)
    check_alignment(ids, block, experts, expected)
    found, _ = interpreted("moe_align_block_size.moe_align_block_size", ids, block, experts)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_alignment_when_one_expert_takes_all(interpreted) -> None:
    for tokens in (70, 2500):
        ids = torch.full((tokens, 1), 3, dtype=torch.int32)
        found, _ = interpreted("moe_align_block_size.moe_align_block_size", ids, 16, 5)
        check_alignment(ids, 16, 5, found)


def test_alignments_are_equal_whatever_the_order_within_an_expert() -> None:
    ids = torch.tensor([[0, 1], [1, 2], [1, 0]], dtype=torch.int32)
    order, blocks, total = MoeAlignBlockSize()(ids, 4, 3)
    canonical = MoeAlignBlockSize.canonical(order, blocks, total)
    shuffled, tail = order.clone(), blocks.clone()
    shuffled[4:8] = order[4:8].flip(0)
    tail[int(total) // 4 :] = 77
    for ours, theirs in zip(MoeAlignBlockSize.canonical(shuffled, tail, total), canonical, strict=True):
        assert torch.equal(ours, theirs)
    swapped = order.clone()
    swapped[0], swapped[4] = order[4], order[0]  # two choices with each other's experts
    assert not torch.equal(MoeAlignBlockSize.canonical(swapped, blocks, total)[0], canonical[0])


def problem(tokens: int, experts: int, topk: int, out: int, size: int, block: int, dtype: torch.dtype) -> list[Any]:
    x, weight = torch.randn(tokens, size + 8).to(dtype)[:, :size], torch.randn(experts, out, size).to(dtype)
    ids, weights = drawn_ids(tokens, experts, topk), torch.rand(tokens, topk)
    return [x, weight, weights, *MoeAlignBlockSize()(ids, block, experts), topk, block, ids]


@pytest.mark.parametrize(("tokens", "experts", "topk"), ROUTINGS[:4])
def test_grouped_gemm_takes_each_choice_to_its_expert(tokens, experts, topk) -> None:
    *arguments, ids = problem(tokens, experts, topk, 6, 10, 4, torch.float64)
    x, weight, weights = arguments[:3]
    expected = torch.stack([weight[e] @ x[i // topk] for i, e in enumerate(ids.flatten().tolist())])
    arguments[2] = None
    torch.testing.assert_close(GroupedGemm()(*arguments), expected)
    arguments[2] = weights
    scaled = GroupedGemm()(*arguments)
    torch.testing.assert_close(scaled, expected * weights.flatten()[:, None])
    assert scaled.dtype == torch.float64


# Rows enough for the copy engine: whole tiles, ragged ones, and rows that start where it can not.
@pytest.mark.parametrize(
    ("tokens", "experts", "topk", "out", "size", "block", "dtype"),
    [
        (*routing, *sizes, dtype)
        for routing in ROUTINGS[:4]
        for sizes in [(70, 48, 16), (64, 128, 32), (130, 200, 64), (128, 64, 128)]
        for dtype in (torch.float32, torch.float16)
    ]
    + [(270, 2, 2, out, size, 128, torch.float16) for out, size in [(256, 128), (300, 72), (40, 200), (70, 68)]],
)
def test_grouped_gemm_kernel(interpreted, tokens, experts, topk, out, size, block, dtype) -> None:
    *arguments, _ = problem(tokens, experts, topk, out, size, block, dtype)
    for scales in (None, arguments[2]):
        arguments[2] = scales
        found, _ = interpreted("grouped_gemm.grouped_gemm", *arguments)
        tolerance = 1e-4 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(found, GroupedGemm()(*arguments), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(3, 2, 64), (1, 8, 1100), (5, 1, 7), (0, 2, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_moe_sum_and_its_kernel(interpreted, shape, dtype) -> None:
    x = torch.randn(shape).to(dtype)
    exact = x.double().sum(1)
    assert MoeSum()(x.double()).dtype == torch.float64
    torch.testing.assert_close(MoeSum()(x), exact.to(dtype))
    torch.testing.assert_close(interpreted("moe_sum.moe_sum", x)[0], exact.to(dtype))


def test_shapes_on_meta() -> None:
    def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    weights, ids = TopkSoftmax(2)(meta(6, 8))
    assert (weights.shape, weights.dtype, ids.shape, ids.dtype) == ((6, 2), torch.float32, (6, 2), torch.int32)
    aligned = MoeAlignBlockSize()(ids, 16, 8)
    assert [t.shape for t in aligned] == [(144,), (9,), (1,)]
    hidden = GroupedGemm()(meta(6, 32), meta(8, 20, 32), None, *aligned, 2, 16)
    assert (hidden.shape, hidden.dtype) == ((12, 20), torch.bfloat16)
    assert MoeSum()(hidden.view(6, 2, 20)).shape == (6, 20)


def test_experts_of_a_token_in_full() -> None:
    """Routing, alignment, both products and the sum, against a loop over tokens."""
    tokens, experts, topk, size, inner, block = 9, 5, 2, 12, 8, 4
    x, logits = torch.randn(tokens, size), torch.randn(tokens, experts)
    w13, w2 = torch.randn(experts, 2 * inner, size), torch.randn(experts, size, inner)
    weights, ids = TopkSoftmax(topk)(logits)
    aligned = MoeAlignBlockSize()(ids, block, experts)
    gate, up = GroupedGemm()(x, w13, None, *aligned, topk, block).chunk(2, -1)
    out = GroupedGemm()(functional.silu(gate) * up, w2, weights, *aligned, 1, block)
    expected = torch.zeros(tokens, size)
    for token in range(tokens):
        for weight, expert in zip(weights[token], ids[token].tolist(), strict=True):
            gate, up = (w13[expert] @ x[token]).chunk(2)
            expected[token] += weight * (w2[expert] @ (functional.silu(gate) * up))
    torch.testing.assert_close(MoeSum()(out.view(tokens, topk, size)), expected, atol=1e-4, rtol=1e-4)
