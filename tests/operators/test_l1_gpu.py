"""Baselines on a GPU: at most four times the error of the reference, both against the reference in float64."""

import copy
import math

import pytest
import torch

from fastkernels_gym.tasks.baseline.forward_context import reference_mode
from fastkernels_gym.tasks.baseline.L1.embedding import Embedding
from fastkernels_gym.tasks.baseline.L1.flash_attn_decode import FlashAttnDecode
from fastkernels_gym.tasks.baseline.L1.flash_attn_prefill import FlashAttnPrefill
from fastkernels_gym.tasks.baseline.L1.gelu_and_mul import GeluAndMul
from fastkernels_gym.tasks.baseline.L1.gemma_rms_norm import GemmaRMSNorm
from fastkernels_gym.tasks.baseline.L1.grouped_gemm import GroupedGemm
from fastkernels_gym.tasks.baseline.L1.linear import Linear
from fastkernels_gym.tasks.baseline.L1.moe_align_block_size import MoeAlignBlockSize
from fastkernels_gym.tasks.baseline.L1.moe_sum import MoeSum
from fastkernels_gym.tasks.baseline.L1.rms_norm import RMSNorm
from fastkernels_gym.tasks.baseline.L1.rotary_emb import get_rope
from fastkernels_gym.tasks.baseline.L1.silu_and_mul import SiluAndMul
from fastkernels_gym.tasks.baseline.L1.store_kvcache import StoreKVCache
from fastkernels_gym.tasks.baseline.L1.topk_softmax import TopkSoftmax
from fastkernels_gym.tasks.baseline.L2.fused_moe import FusedMoE

pytestmark = pytest.mark.gpu
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def flat(outputs) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else [t for t in outputs if t is not None]


def check(operator, *arguments) -> None:
    """Runs reference, float64 reference and baseline, in that order: the last may overwrite its arguments."""
    wide = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in arguments]
    with reference_mode():
        exact, reference = flat(copy.deepcopy(operator).double()(*wide)), flat(operator(*arguments))
    for ours, native, oracle in zip(flat(operator(*arguments)), reference, exact, strict=True):
        assert ours.shape == native.shape and ours.dtype == native.dtype
        floor = torch.finfo(ours.dtype).eps / 4 * oracle.square().mean().sqrt()
        rms = [(t.double() - oracle).square().mean().sqrt() for t in (ours, native)]
        assert rms[0] <= 4 * max(rms[1], floor), (rms, floor)


def randn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


@pytest.mark.parametrize("shape", [(1, 4096), (33, 4096), (7, 33), (5, 8, 128), (3, 28672), (2, 57344), (0, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [RMSNorm, GemmaRMSNorm])
def test_rms_norm(shape, dtype, kind):
    norm = kind(shape[-1]).to("cuda", dtype)
    norm.weight.data += randn(shape[-1], dtype=dtype) / 10
    if math.prod(shape):
        check(norm, randn(*shape, dtype=dtype))
        check(norm, randn(*shape, dtype=dtype), randn(*shape, dtype=dtype))
    assert norm(randn(*shape, dtype=dtype)).shape == shape
    packed = randn(9, 400, dtype=dtype)
    if len(shape) == 3:
        check(norm, packed[:, 16:400].unflatten(-1, (3, 128)))


@pytest.mark.parametrize("shape", [(1, 28672), (33, 28672), (7, 66), (3, 57344 * 2)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gate", [SiluAndMul(), GeluAndMul(), GeluAndMul("tanh")])
def test_gates(shape, dtype, gate):
    check(gate, randn(*shape, dtype=dtype))
    check(gate, randn(shape[0], shape[1] + 32, dtype=dtype)[:, 16 : shape[1] + 16])


@pytest.mark.parametrize(
    "tokens, heads, kv_heads, size", [(1, 32, 8, 128), (65, 12, 2, 64), (5, 3, 1, 96), (9, 4, 4, 256)]
)
@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotary_emb(tokens, heads, kv_heads, size, neox, dtype):
    rope = get_rope(size, 4096, neox, dtype=dtype).cuda()
    packed = randn(tokens, (heads + 2 * kv_heads) * size, dtype=dtype)
    query, key, value = packed.split([heads * size, kv_heads * size, kv_heads * size], dim=-1)
    before = value.clone()
    check(rope, torch.randint(4096, (tokens,), device="cuda"), query, key)
    assert torch.equal(value, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_store_kvcache(dtype):
    packed = randn(50, 3 * 8 * 128, dtype=dtype)
    key, value = (t.unflatten(-1, (8, 128)) for t in packed.chunk(3, dim=-1)[1:])
    slots = torch.randperm(128, device="cuda")[:50]
    slots[::7] = -1
    caches = [torch.zeros(2, 8, 16, 8, 128, dtype=dtype, device="cuda") for _ in range(2)]
    StoreKVCache()(key, value, *caches[0], slots)
    with reference_mode():
        StoreKVCache()(key, value, *caches[1], slots)
    assert torch.equal(*caches) and caches[0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_and_embedding(dtype):
    weight = randn(300, 128, dtype=dtype)
    check(Linear(), randn(17, 128, dtype=dtype), weight, randn(300, dtype=dtype))
    check(Embedding(), torch.randint(300, (17,), device="cuda"), weight)


@pytest.mark.parametrize("rows", [1, 2, 16, 32, 33])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_of_few_rows(rows, dtype):
    weight = randn(4096, 14336, dtype=dtype) / 50
    check(Linear(), randn(rows, 14336, dtype=dtype), weight)
    check(Linear(), randn(rows, 512, dtype=dtype), weight[:96, :512].contiguous(), randn(96, dtype=dtype))


@pytest.mark.parametrize("lengths", [[200], [1], [0], [90, 90, 90], [5, 0, 130, 1], [900, 3, 400]])
@pytest.mark.parametrize("heads, kv_heads, size", [(8, 2, 128), (4, 4, 64), (6, 2, 96), (4, 1, 256)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_flash_attn_prefill(lengths, heads, kv_heads, size, dtype):
    packed = randn(sum(lengths), (heads + 2 * kv_heads) * size, dtype=dtype)
    parts = packed.split([heads * size, kv_heads * size, kv_heads * size], dim=-1)
    bounds = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()
    arguments = (*(t.unflatten(-1, (-1, size)) for t in parts), bounds, max(lengths))
    prefill = FlashAttnPrefill(heads, size, size**-0.5, kv_heads)
    assert prefill(*arguments).is_contiguous()
    if sum(lengths):
        check(prefill, *arguments)


@pytest.mark.parametrize("lengths", [[700], [90, 90], [5, 0, 330, 1], [1100, 9]])
@pytest.mark.parametrize("cap, window", [(None, 64), (None, 1), (20.0, None), (20.0, 100)])
@pytest.mark.parametrize("heads, kv_heads, size", [(8, 2, 128), (4, 1, 256), (6, 2, 96)])
def test_flash_attn_prefill_with_windows_and_soft_caps(lengths, cap, window, heads, kv_heads, size):
    packed = randn(sum(lengths), (heads + 2 * kv_heads) * size, dtype=torch.bfloat16)
    parts = packed.split([heads * size, kv_heads * size, kv_heads * size], dim=-1)
    bounds = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()
    prefill = FlashAttnPrefill(heads, size, size**-0.5, kv_heads, cap, window)
    check(prefill, *(t.unflatten(-1, (-1, size)) for t in parts), bounds, max(lengths))


@pytest.mark.parametrize(
    "before, lengths", [([512], [300]), ([1000, 0, 37], [64, 200, 1]), ([3, 3], [90, 90]), ([70, 5], [1000, 200])]
)
@pytest.mark.parametrize("cap, window", [(None, None), (None, 64), (20.0, None), (20.0, 100)])
@pytest.mark.parametrize("heads, kv_heads, size", [(8, 2, 128), (4, 1, 256), (6, 2, 96)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_flash_attn_prefill_of_a_chunk(before, lengths, cap, window, heads, kv_heads, size, dtype):
    keys = [b + n for b, n in zip(before, lengths, strict=True)]
    query = randn(sum(lengths), heads, size, dtype=dtype)
    key, value = randn(2, sum(keys), kv_heads, size, dtype=dtype)
    bounds, key_bounds = (torch.tensor([0, *counts], device="cuda").cumsum(0).int() for counts in (lengths, keys))
    prefill = FlashAttnPrefill(heads, size, size**-0.5, kv_heads, cap, window)
    check(prefill, query, key, value, bounds, max(lengths), key_bounds, max(keys))


def decode_problem(lengths: list[int], heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> list:
    """Arguments of the operator, the query a view, pages permuted."""
    width = math.ceil(max(lengths) / 16)
    table = torch.randperm(len(lengths) * width, device="cuda").int().view(len(lengths), width)
    caches = randn(2, table.numel(), 16, kv_heads, size, dtype=dtype)
    query = randn(len(lengths), (heads + kv_heads) * size, dtype=dtype)[:, : heads * size].unflatten(-1, (heads, size))
    return [query, *caches, table, torch.tensor(lengths, device="cuda").int(), width * 16]


@pytest.mark.parametrize("lengths", [[1], [1000], [3, 513, 64, 2050], [17] * 300])
@pytest.mark.parametrize("heads, kv_heads, size", [(32, 8, 128), (14, 2, 64), (6, 2, 96), (16, 1, 256), (4, 4, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_flash_attn_decode(lengths, heads, kv_heads, size, dtype):
    check(FlashAttnDecode(heads, size, size**-0.5, kv_heads), *decode_problem(lengths, heads, kv_heads, size, dtype))


@pytest.mark.parametrize("cap, window", [(None, 64), (None, 1), (20.0, None), (20.0, 100)])
@pytest.mark.parametrize("heads, kv_heads, size", [(8, 4, 256), (4, 1, 256), (32, 8, 128)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_flash_attn_decode_with_windows_and_soft_caps(cap, window, heads, kv_heads, size, dtype):
    arguments = decode_problem([3, 513, 64, 2050], heads, kv_heads, size, dtype)
    check(FlashAttnDecode(heads, size, size**-0.5, kv_heads, cap, window), *arguments)


@pytest.mark.parametrize("window", [None, 200])
def test_decode_graph_follows_the_lengths(window):
    decode = FlashAttnDecode(8, 64, 0.125, 2, None, window)
    arguments = decode_problem([100, 7, 900], 8, 2, 64, torch.bfloat16)
    decode(*arguments)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = decode(*arguments)
    for lengths in ([1, 1, 1], [900, 0, 333]):
        arguments[4].copy_(torch.tensor(lengths))
        graph.replay()
        with reference_mode():
            torch.testing.assert_close(out, decode(*arguments), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("tokens, experts, topk", [(1, 8, 2), (33, 128, 8), (2048, 8, 2), (1500, 60, 4)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_experts(tokens, experts, topk, dtype):
    logits = torch.randn(tokens, experts, device="cuda").to(dtype)
    weights, ids = TopkSoftmax(topk)(logits)
    with reference_mode():
        expected, places = TopkSoftmax(topk)(logits)
    assert torch.equal(ids, places)
    torch.testing.assert_close(weights, expected)
    for block in (16, 64, 128):
        aligned = MoeAlignBlockSize()(ids, block, experts)
        with reference_mode():
            assert all(map(torch.equal, aligned, MoeAlignBlockSize()(ids, block, experts)))
        x, weight = randn(tokens, 136, dtype=dtype)[:, 8:], randn(experts, 70, 128, dtype=dtype)
        check(GroupedGemm(), x, weight, None, *aligned, topk, block)
        inner, down = randn(tokens * topk, 72, dtype=dtype), randn(experts, 48, 72, dtype=dtype)
        check(GroupedGemm(), inner, down, weights, *aligned, 1, block)
    check(MoeSum(), randn(tokens, topk, 200, dtype=dtype))


@pytest.mark.parametrize("tokens, experts, topk", [(300, 128, 8), (2500, 128, 8), (40_000, 8, 2), (9000, 200, 4)])
def test_alignment_of_many_choices(tokens, experts, topk):
    ids = torch.rand(tokens, experts, device="cuda").square().topk(topk).indices.int()
    for block in (16, 128):
        with reference_mode():
            expected = MoeAlignBlockSize()(ids, block, experts)
        assert all(map(torch.equal, MoeAlignBlockSize()(ids, block, experts), expected))


def test_a_graph_of_experts_follows_the_routing():
    moe = FusedMoE(16, 4, 128, 64, params_dtype=torch.bfloat16).cuda()
    for weight in moe.parameters():
        weight.data.normal_(0, 0.1)
    x, logits = (torch.empty(24, size, dtype=torch.bfloat16, device="cuda").normal_() for size in (128, 16))
    moe(x, logits)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = moe(x, logits)
    for skew in (0.0, 5.0):
        x.normal_()
        logits.normal_()[:, 3] += skew
        graph.replay()
        assert torch.equal(out, moe(x, logits))
