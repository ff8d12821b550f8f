import math

import pytest
import torch

from fastkernels_gym.tasks.baseline.L1.flash_attn_decode import FlashAttnDecode
from fastkernels_gym.tasks.baseline.L1.flash_attn_prefill import FlashAttnPrefill

# heads, kv_heads, head_size
SHAPES = [(4, 4, 64), (8, 2, 16), (6, 2, 96), (5, 1, 20), (16, 1, 8), (1, 1, 128), (2, 1, 256)]


# soft cap, window
OPTIONS = [(None, 3), (None, 1), (None, 1000), (2.0, None), (0.5, 4)]


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, cap: float | None = None
) -> torch.Tensor:
    """One query (heads, size) over what it sees, (length, kv_heads, size), head by head in float64."""
    out = torch.empty(query.shape, dtype=torch.float64)
    for head in range(query.shape[0]):
        kv_head = head * key.shape[1] // query.shape[0]
        scores = key[:, kv_head].double() @ query[head].double() * scale
        scores = cap * torch.tanh(scores / cap) if cap else scores
        out[head] = (scores - scores.logsumexp(0)).exp() @ value[:, kv_head].double()
    return out


def packed(tokens: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key and value as views of one projection."""
    parts = [heads * size, kv_heads * size, kv_heads * size]
    return [t.unflatten(-1, (-1, size)) for t in torch.randn(tokens, sum(parts)).to(dtype).split(parts, dim=-1)]


def pages(lengths: list[int], block_size: int, kv_heads: int, size: int, dtype: torch.dtype):
    """Caches with a permuted block table, NaN wherever no sequence has a token."""
    counts = [math.ceil(length / block_size) for length in lengths]
    free = torch.randperm(sum(counts) + 2).int().tolist()
    # A table's unused entries point nowhere.
    table = torch.full((len(lengths), max(counts, default=0) + 1), 10**6, dtype=torch.int32)
    caches = torch.full((2, sum(counts) + 2, block_size, kv_heads, size), torch.nan).to(dtype)
    sequences = []
    for row, length in enumerate(lengths):
        kv = torch.randn(2, length, kv_heads, size).to(dtype)
        for page in range(counts[row]):
            table[row, page] = free.pop()
            part = kv[:, page * block_size : (page + 1) * block_size]
            caches[:, table[row, page], : part.shape[1]] = part
        sequences.append(kv)
    return caches[0], caches[1], table, torch.tensor(lengths, dtype=torch.int32), sequences


@pytest.mark.parametrize("heads, kv_heads, size", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_prefill(heads, kv_heads, size, dtype):
    lengths = [3, 1, 0, 7]
    query, key, value = packed(sum(lengths), heads, kv_heads, size, dtype)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    out = FlashAttnPrefill(heads, size, 0.3, kv_heads)(query, key, value, bounds, max(lengths))
    rows = [(begin, token) for begin, end in zip(bounds[:-1], bounds[1:], strict=True) for token in range(begin, end)]
    wanted = torch.stack([attend(query[t], key[b : t + 1], value[b : t + 1], 0.3) for b, t in rows])
    assert out.dtype == dtype and out.is_contiguous()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)


def test_prefill_of_a_long_sequence_goes_by_chunks():
    query, key, value = packed(1100, 2, 1, 8, torch.float64)
    out = FlashAttnPrefill(2, 8, 0.5, 1)(query, key, value, torch.tensor([0, 1100], dtype=torch.int32), 1100)
    for token in (0, 1023, 1024, 1099):
        wanted = attend(query[token], key[: token + 1], value[: token + 1], 0.5)
        torch.testing.assert_close(out[token], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cap, window", OPTIONS)
def test_prefill_with_windows_and_soft_caps(cap, window):
    lengths = [9, 1, 0, 4]
    query, key, value = packed(sum(lengths), 4, 2, 16, torch.float64)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    out = FlashAttnPrefill(4, 16, 0.3, 2, cap, window)(query, key, value, bounds, max(lengths))
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        for token in range(begin, end):
            seen = slice(max(begin, token + 1 - (window or token + 1)), token + 1)
            wanted = attend(query[token], key[seen], value[seen], 0.3, cap)
            torch.testing.assert_close(out[token], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [5, 76, 2000])
def test_prefill_of_a_long_sequence_slides_over_its_chunks(window):
    query, key, value = packed(1100, 2, 1, 8, torch.float64)
    bounds = torch.tensor([0, 1100], dtype=torch.int32)
    out = FlashAttnPrefill(2, 8, 0.5, 1, None, window)(query, key, value, bounds, 1100)
    for token in (0, 4, 1023, 1024, 1027, 1099):
        seen = slice(max(0, token + 1 - window), token + 1)
        torch.testing.assert_close(
            out[token], attend(query[token], key[seen], value[seen], 0.5), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("heads, kv_heads, size", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_prefill_kernel(interpreted, heads, kv_heads, size, dtype):
    lengths = [3, 150, 0, 1]
    query, key, value = packed(sum(lengths), heads, kv_heads, size, dtype)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    wanted = FlashAttnPrefill(heads, size, 0.3, kv_heads, 2.0)(query, key, value, bounds, max(lengths))
    out, _ = interpreted("flash_attn_prefill.ragged_prefill", query, key, value, bounds, max(lengths), 0.3, 2.0)
    assert out.is_contiguous()
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cap, window", [*OPTIONS, (None, None), (30.0, 100), (None, 64)])
def test_prefill_kernel_with_windows_and_soft_caps(interpreted, cap, window):
    query, key, value = packed(300, 2, 1, 8, torch.float32)
    bounds = torch.tensor([0, 290, 300], dtype=torch.int32)
    wanted = FlashAttnPrefill(2, 8, 0.3, 1, cap, window)(query, key, value, bounds, 290)
    out, _ = interpreted("flash_attn_prefill.ragged_prefill", query, key, value, bounds, 290, 0.3, cap, window)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def test_prefill_kernel_of_wide_heads_slides(interpreted):
    query, key, value = packed(430, 2, 1, 160, torch.float32)
    bounds = torch.tensor([0, 400, 430], dtype=torch.int32)
    wanted = FlashAttnPrefill(2, 160, 0.1, 1, None, 200)(query, key, value, bounds, 400)
    out, _ = interpreted("flash_attn_prefill.ragged_prefill", query, key, value, bounds, 400, 0.1, None, 200)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


def chunk(before: list[int], lengths: list[int], heads: int, kv_heads: int, size: int):
    """Prefill's arguments for the last tokens of sequences, all queries, and which are the last tokens'."""
    keys = [b + n for b, n in zip(before, lengths, strict=True)]
    query, key, value = packed(sum(keys), heads, kv_heads, size, torch.float32)
    bounds, key_bounds = (torch.tensor([0, *counts]).cumsum(0).int() for counts in (lengths, keys))
    last = torch.cat([torch.arange(end - n, end) for end, n in zip(key_bounds[1:].tolist(), lengths, strict=True)])
    return [query[last], key, value, bounds, max(lengths), key_bounds, max(keys)], query, last


@pytest.mark.parametrize("cap, window", [*OPTIONS, (None, None)])
def test_prefill_of_a_chunk_is_the_end_of_the_whole(cap, window):
    arguments, query, last = chunk([5, 0, 12, 0, 3], [4, 7, 1, 0, 2], 4, 2, 16)
    _, key, value, _, _, key_bounds, longest = arguments
    prefill = FlashAttnPrefill(4, 16, 0.3, 2, cap, window)
    torch.testing.assert_close(prefill(*arguments), prefill(query, key, value, key_bounds, longest)[last])


@pytest.mark.parametrize("window", [None, 70, 2000])
def test_prefill_of_a_long_chunk_goes_by_chunks(window):
    arguments, query, last = chunk([90], [1100], 2, 1, 8)
    _, key, value, _, _, key_bounds, longest = arguments
    prefill = FlashAttnPrefill(2, 8, 0.5, 1, None, window)
    torch.testing.assert_close(prefill(*arguments), prefill(query, key, value, key_bounds, longest)[last])


@pytest.mark.parametrize("cap, window", [(None, None), (2.0, None), (None, 64), (30.0, 100), (None, 3)])
def test_prefill_kernel_of_a_chunk(interpreted, cap, window):
    arguments, *_ = chunk([100, 0, 33], [150, 20, 1], 2, 1, 8)
    query, key, value, bounds, longest, key_bounds, _ = arguments
    wanted = FlashAttnPrefill(2, 8, 0.3, 1, cap, window)(*arguments)
    given = (query, key, value, bounds, longest, 0.3, cap, window, key_bounds)
    out, _ = interpreted("flash_attn_prefill.ragged_prefill", *given)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch, length", [(1, 9), (3, 5), (4, 1)])
def test_prefill_baseline_of_sequences_of_one_length(batch, length):
    query, key, value = packed(batch * length, 6, 2, 16, torch.bfloat16)
    prefill, bounds = FlashAttnPrefill(6, 16, 0.3, 2), torch.arange(0, batch * length + 1, length).int()
    out = prefill.forward_cuda(query, key, value, bounds, length)
    assert out.is_contiguous()
    torch.testing.assert_close(out, prefill(query, key, value, bounds, length), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("bounds", [[0], [0, 0], [0, 0, 0]])
def test_prefill_of_nothing(bounds):
    query, key, value = packed(0, 2, 1, 8, torch.float32)
    out = FlashAttnPrefill(2, 8, 1.0, 1)(query, key, value, torch.tensor(bounds, dtype=torch.int32), 0)
    assert out.shape == (0, 2, 8)


@pytest.mark.parametrize("heads, kv_heads, size", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_decode(heads, kv_heads, size, dtype):
    query, *_ = packed(4, heads, kv_heads, size, dtype)
    keys, values, table, lengths, sequences = pages([1, 5, 4, 9], 4, kv_heads, size, dtype)
    out = FlashAttnDecode(heads, size, 0.3, kv_heads)(query, keys, values, table, lengths, 1000)
    wanted = torch.stack([attend(q, *kv, 0.3) for q, kv in zip(query, sequences, strict=True)])
    assert out.dtype == dtype and out.is_contiguous()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(out.double(), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cap, window", OPTIONS)
def test_decode_with_windows_and_soft_caps(cap, window):
    query, *_ = packed(4, 4, 2, 16, torch.float64)
    keys, values, table, lengths, sequences = pages([1, 5, 4, 9], 4, 2, 16, torch.float64)
    if window == 1:
        table[3, :2] = 10**6  # pages before the window are not read
    out = FlashAttnDecode(4, 16, 0.3, 2, cap, window)(query, keys, values, table, lengths, 1000)
    seen = [kv[:, -window:] if window else kv for kv in sequences]
    wanted = torch.stack([attend(q, *kv, 0.3, cap) for q, kv in zip(query, seen, strict=True)])
    torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cap, window", [*OPTIONS, (30.0, 100), (None, 64), (None, 300)])
def test_decode_kernel_with_windows_and_soft_caps(interpreted, cap, window):
    query, *_ = packed(5, 4, 2, 8, torch.float32)
    keys, values, table, lengths, _ = pages([1, 0, 300, 65, 64], 16, 2, 8, torch.float32)
    wanted = FlashAttnDecode(4, 8, 0.3, 2, cap, window)(query, keys, values, table, lengths, 300)
    for bound in (300, 10**6):
        arguments = (query, keys, values, table, lengths, bound, 0.3, cap, window)
        out, _ = interpreted("flash_attn_decode.paged_decode", *arguments)
        torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads, kv_heads, size", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_decode_kernel(interpreted, heads, kv_heads, size, dtype):
    query, *_ = packed(3, heads, kv_heads, size, dtype)
    keys, values, table, lengths, _ = pages([1, 0, 70], 16, kv_heads, size, dtype)
    wanted = FlashAttnDecode(heads, size, 0.3, kv_heads)(query, keys, values, table, lengths, 70)
    out, _ = interpreted("flash_attn_decode.paged_decode", query, keys, values, table, lengths, 70, 0.3)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(out, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("block_size, lengths", [(1, [3]), (3, [10, 2]), (256, [300]), (16, [1000, 1]), (16, [])])
def test_decode_kernel_over_pages_and_splits(interpreted, block_size, lengths):
    query = torch.randn(2, len(lengths), 8).permute(1, 0, 2)
    keys, values, table, seq_lens, _ = pages(lengths, block_size, 1, 8, torch.float32)
    wanted = FlashAttnDecode(2, 8, 1.0, 1)(query, keys, values, table, seq_lens, 1000)
    for bound in (1000, 10**6):
        out, _ = interpreted("flash_attn_decode.paged_decode", query, keys, values, table, seq_lens, bound, 1.0)
        torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cap, window", [(None, None), (0.5, 4)])
def test_decode_kernel_of_many_short_sequences(interpreted, cap, window):
    lengths = [0, *torch.randint(1, 90, (63,)).tolist()]
    keys, values, table, seq_lens, sequences = pages(lengths, 16, 4, 8, torch.float32)
    query = torch.randn(64, 8, 8)
    out, _ = interpreted("flash_attn_decode.paged_decode", query, keys, values, table, seq_lens, 90, 0.3, cap, window)
    assert not out[0].any()
    for row, kv in enumerate(sequences[1:], 1):
        wanted = attend(query[row], *(t[-window:] if window else t for t in kv), 0.3, cap)
        torch.testing.assert_close(out[row].double(), wanted, atol=1e-5, rtol=1e-5)


def test_decode_kernel_takes_large_scores(interpreted):
    query = 100 * torch.randn(1, 2, 8)
    keys, values, table, lengths, _ = pages([200], 16, 1, 8, torch.float32)
    wanted = FlashAttnDecode(2, 8, 1.0, 1)(query, keys, values, table, lengths, 200)
    out, _ = interpreted("flash_attn_decode.paged_decode", query, keys, values, table, lengths, 200, 1.0)
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cap, window", [(None, None), (2.0, 300)])
def test_prefill_kernel_of_many_tokens_by_the_copy_engine(interpreted, cap, window):
    lengths = [700, 1, 383]
    query, key, value = packed(sum(lengths), 2, 1, 16, torch.float32)
    key[700:], value[700:] = torch.nan, torch.nan  # what is wrong with one sequence is no other's trouble
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    wanted = FlashAttnPrefill(2, 16, 0.3, 1, cap, window)(query, key, value, bounds, max(lengths))
    out, _ = interpreted("flash_attn_prefill.ragged_prefill", query, key, value, bounds, max(lengths), 0.3, cap, window)
    assert out[:700].isfinite().all()
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
