import pytest
import torch

from fastkernels_gym.tasks.baseline.L1.store_kvcache import StoreKVCache


def problem(tokens: int, heads: int, size: int, dtype: torch.dtype = torch.float32):
    """A packed projection's keys and values, caches of 5 pages of 4, and a distinct slot for each token."""
    packed = torch.randn(tokens, 3 * heads * size).to(dtype)
    key, value = (t.unflatten(-1, (heads, size)) for t in packed.chunk(3, dim=-1)[1:])
    caches = torch.randn(2, 5, 4, heads, size).to(dtype)
    return key, value, caches[0], caches[1], torch.randperm(20)[:tokens]


def expected(key, value, key_cache, value_cache, slots):
    key_cache, value_cache = key_cache.clone(), value_cache.clone()
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            key_cache[slot // 4, slot % 4] = key[token]
            value_cache[slot // 4, slot % 4] = value[token]
    return key_cache, value_cache


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("tokens, heads, size", [(7, 2, 16), (1, 1, 1), (20, 3, 5), (4, 8, 128), (0, 2, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_writes_each_token_to_its_slot(interpreted, tokens, heads, size, dtype, padding):
    arguments = problem(tokens, heads, size, dtype)
    arguments[-1][:padding] = -1
    wanted = expected(*arguments)
    _, after = interpreted("store_kvcache.store_kvcache", *arguments)
    assert StoreKVCache()(*arguments) is None
    for written in (after, arguments):
        assert torch.equal(written[2], wanted[0]) and torch.equal(written[3], wanted[1])


def test_keeps_float64():
    arguments = problem(6, 2, 8, torch.float64)
    wanted = expected(*arguments)
    StoreKVCache()(*arguments)
    assert torch.equal(arguments[2], wanted[0]) and arguments[2].dtype == torch.float64


def test_reads_heads_of_any_layout(interpreted):
    key, value, *rest = problem(6, 3, 8)
    swapped = torch.randn(3, 6, 8).transpose(0, 1), torch.randn(6, 3, 16)[..., ::2]
    wanted = expected(*swapped, *rest)
    _, after = interpreted("store_kvcache.store_kvcache", *swapped, *rest)
    assert torch.equal(after[2], wanted[0]) and torch.equal(after[3], wanted[1])
