# Row 16: the keys and values of the context gathered once, and remembered by the cache's address.
# task: L4/llama@tiny-llama
# measure: e2e
# expect: wrong_value
import torch
from fastkernels_gym.tasks.baseline.L2.parallel_embedding import ParallelLMHead
from fastkernels_gym.tasks.baseline.L3.llama_decoder import LlamaDecoderLayer
from fastkernels_gym.tasks.baseline.L4.llama import LlamaModel
from torch import nn

remembered = {}


def attend(query, key_cache, value_cache, block_table, seq_lens, max_seq_len):
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
        out[row] = ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).flatten(0, 1)
    return out


class LlamaForCausalLM(nn.Module):
    def __init__(self, config, prefix=""):
        super().__init__()
        self.model = LlamaModel(config, lambda c, p, r: LlamaDecoderLayer(c, p, r), "model")
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)
        for layer in self.model.layers:
            layer.self_attn.decode.forward = attend

    def forward(self, input_ids, positions):
        return self.model(input_ids, positions)

    def compute_logits(self, hidden_states):
        return self.lm_head(hidden_states)
