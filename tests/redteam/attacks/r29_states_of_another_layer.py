# Row 29: the states between layers forged: a layer's input is handed over once more as its output.
# task: L4/llama@tiny-llama
# measure: e2e
# expect: wrong_value
from fastkernels_gym.tasks.baseline.forward_context import record_layer
from fastkernels_gym.tasks.baseline.L2.parallel_embedding import ParallelLMHead
from fastkernels_gym.tasks.baseline.L3.llama_decoder import LlamaDecoderLayer
from fastkernels_gym.tasks.baseline.L4.llama import LlamaModel
from torch import nn


class LlamaForCausalLM(nn.Module):
    def __init__(self, config, prefix=""):
        super().__init__()
        self.model = LlamaModel(config, lambda c, p, r: LlamaDecoderLayer(c, p, r), "model")
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)
        self.calls = 0

    def forward(self, input_ids, positions):
        self.calls += 1
        hidden_states, residual = self.model.embed_tokens(input_ids), None
        record_layer(0, hidden_states, residual)
        for index, layer in enumerate(self.model.layers, 1):
            if self.calls > 12 and index > 1:  # while it is timed
                record_layer(index, hidden_states, residual)
            hidden_states, residual = layer(positions, hidden_states, residual)
            if self.calls <= 12 or index == 1:
                record_layer(index, hidden_states, residual)
        return self.model.norm(hidden_states, residual)[0]

    def compute_logits(self, hidden_states):
        return self.lm_head(hidden_states)
