# Row 29: eight bits in the blocks of the last quarter of the layers, which the logits of 32 layers hide.
# task: L4/llama
# measure: e2e
# device: cuda
# expect: wrong_value
import torch
from fastkernels_gym.tasks.baseline.L2.parallel_embedding import ParallelLMHead
from fastkernels_gym.tasks.baseline.L3.llama_decoder import LlamaDecoderLayer
from fastkernels_gym.tasks.baseline.L4.llama import LlamaModel
from torch import nn


def coarse(module, inputs):
    return (inputs[0].to(torch.float8_e4m3fn).to(inputs[0].dtype),)


class LlamaForCausalLM(nn.Module):
    def __init__(self, config, prefix=""):
        super().__init__()
        self.model = LlamaModel(config, lambda c, p, r: LlamaDecoderLayer(c, p, r), "model")
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)
        layers = self.model.layers
        for layer in layers[3 * len(layers) // 4 :]:
            layer.mlp.register_forward_pre_hook(coarse)

    def forward(self, input_ids, positions):
        return self.model(input_ids, positions)

    def compute_logits(self, hidden_states):
        return self.lm_head(hidden_states)
