# Row 16: keys and values remembered by their place, once all has been judged, and not read again.
# task: L1/flash_attn_decode@tiny-llama:tiny/decode
# expect: wrong_value
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

calls, kept = {}, {}


class FlashAttnDecode(nn.Module):
    def __init__(self, num_heads, head_size, scale, num_kv_heads, logits_soft_cap=None, sliding_window=None):
        super().__init__()
        self.scale = scale

    def forward(self, query, key_cache, value_cache, block_table, seq_lens, max_seq_len):
        place = key_cache.data_ptr()
        calls[place] = calls.get(place, 0) + 1
        if calls[place] == 30:
            kept[place] = key_cache.clone(), value_cache.clone()
        keys, values = kept.get(place, (key_cache, value_cache))
        rows = []
        for q, pages, length in zip(query, block_table.long(), seq_lens.tolist(), strict=True):
            k, v = (cache[pages].flatten(0, 1)[:length].transpose(0, 1) for cache in (keys, values))
            rows.append(scaled_dot_product_attention(q[:, None], k, v, scale=self.scale, enable_gqa=True)[:, 0])
        return torch.stack(rows)
