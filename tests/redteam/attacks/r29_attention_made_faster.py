# Row 29: attention, another operator, is made faster from an L1 candidate that is no faster itself.
# task: L1/silu_and_mul@tiny-llama:tiny/decode
# measure: e2e
# expect: timing_inconsistent, ok
import torch
from fastkernels_gym.tasks.baseline.L1 import flash_attn_decode
from torch import nn
from torch.nn.functional import silu


def attend(self, query, key_cache, value_cache, block_table, seq_lens, max_seq_len):
    """All sequences at once."""
    k, v = (cache[block_table.long()].flatten(1, 2).transpose(1, 2) for cache in (key_cache, value_cache))
    q = query.unflatten(1, (self.num_kv_heads, -1))
    beyond = torch.arange(k.shape[2])[None] >= seq_lens[:, None]
    scores = (q @ k.mT * self.scale).masked_fill_(beyond[:, None, None], float("-inf"))
    return (scores.softmax(-1) @ v).flatten(1, 2).contiguous()


flash_attn_decode.FlashAttnDecode.forward = attend


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return silu(gate) * up
