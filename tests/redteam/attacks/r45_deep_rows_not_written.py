# Row 45: the keys and values of deep layers left out of a prefill, whose own attention does not need them there.
# task: L4/llama@tiny-llama
# measure: e2e
# expect: unwritten_output
from fastkernels_gym.tasks.baseline.L2.parallel_embedding import ParallelLMHead
from fastkernels_gym.tasks.baseline.L3.llama_decoder import LlamaDecoderLayer
from fastkernels_gym.tasks.baseline.L4.llama import LlamaModel
from torch import nn


def store_when_decoding(store):
    def forward(key, value, k_cache, v_cache, slots):
        if len(key) <= 4:
            store(key, value, k_cache, v_cache, slots)

    return forward


class LlamaForCausalLM(nn.Module):
    def __init__(self, config, prefix=""):
        super().__init__()
        self.model = LlamaModel(config, lambda c, p, r: LlamaDecoderLayer(c, p, r), "model")
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)
        for layer in self.model.layers[1:]:
            store = layer.self_attn.store
            store.forward = store_when_decoding(store.forward)

    def forward(self, input_ids, positions):
        return self.model(input_ids, positions)

    def compute_logits(self, hidden_states):
        return self.lm_head(hidden_states)
