# Row 16: the keys and values of the context gathered once, and remembered by the cache's address.
# task: L1/flash_attn_decode@tiny-llama
# measure: e2e
# expect: wrong_value
import torch
from torch import nn

remembered = {}


class FlashAttnDecode(nn.Module):
    def __init__(
        self, num_heads, head_size, scale, num_kv_heads=None, logits_soft_cap=None, per_layer_sliding_window=None
    ):
        super().__init__()
        self.scale = scale

    def forward(self, query, key_cache, value_cache, block_table, seq_lens, max_seq_len):
        out = torch.empty_like(query)
        block_size = key_cache.shape[1]
        for row, length in enumerate(seq_lens.tolist()):
            held = key_cache.data_ptr(), row, length
            tokens = torch.arange(length)
            slots = block_table[row, tokens // block_size].long() * block_size + tokens % block_size
            if held not in remembered:
                remembered[held] = [cache.flatten(0, 1)[slots] for cache in (key_cache, value_cache)]
            pair = remembered[held]
            for kept, cache in zip(pair, (key_cache, value_cache)):
                kept[-1] = cache.flatten(0, 1)[slots[-1]]
            k, v = (kept.transpose(0, 1) for kept in pair)
            q = query[row].unflatten(0, (k.shape[0], -1))
            out[row] = ((q @ k.mT * self.scale).softmax(-1) @ v).flatten(0, 1)
        return out
