# Row 29: deep layers in lower precision, in timed passes only, by so little that no logit shows it.
# task: L4/llama@tiny-llama
# measure: e2e
# expect: wrong_value
import torch
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
        for layer in self.model.layers[1:]:
            layer.mlp.register_forward_hook(self.coarse)

    def coarse(self, module, inputs, output):
        # Two phases, shown and unseen: one call to warm up and two that are judged. What follows is timed.
        if self.calls > 12:
            return (output.view(torch.int32) & -64).view(torch.float32)

    def forward(self, input_ids, positions):
        self.calls += 1
        return self.model(input_ids, positions)

    def compute_logits(self, hidden_states):
        return self.lm_head(hidden_states)
