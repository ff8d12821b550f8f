# Row 29: attention is made faster from a block that is no faster itself, by less than that block takes.
# task: L2/llama_mlp@tiny-llama:tiny/decode
# measure: e2e
# expect: timing_inconsistent, ok
import torch
from fastkernels_gym.tasks.baseline.L1 import flash_attn_decode
from fastkernels_gym.tasks.baseline.L1.silu_and_mul import SiluAndMul
from fastkernels_gym.tasks.baseline.L2.parallel_linear import MergedColumnParallelLinear, RowParallelLinear
from torch import nn


def attend(self, query, key_cache, value_cache, block_table, seq_lens, max_seq_len):
    """All sequences at once."""
    k, v = (cache[block_table.long()].flatten(1, 2).transpose(1, 2) for cache in (key_cache, value_cache))
    q = query.unflatten(1, (self.num_kv_heads, -1))
    beyond = torch.arange(k.shape[2])[None] >= seq_lens[:, None]
    scores = (q @ k.mT * self.scale).masked_fill_(beyond[:, None, None], float("-inf"))
    return (scores.softmax(-1) @ v).flatten(1, 2).contiguous()


flash_attn_decode.FlashAttnDecode.forward = attend


class LlamaMLP(nn.Module):
    def __init__(self, hidden_size, intermediate_size, hidden_act, quant_config=None, bias=False, prefix="", **_):
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(hidden_size, [intermediate_size] * 2, bias=bias)
        self.down_proj = RowParallelLinear(intermediate_size, hidden_size, bias=bias)
        self.act_fn = SiluAndMul()

    def forward(self, x):
        gate_up, _ = self.gate_up_proj(x)
        out, _ = self.down_proj(self.act_fn(gate_up))
        return out
