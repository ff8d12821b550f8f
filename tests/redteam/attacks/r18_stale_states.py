# Row 18: the states between layers handed over once, and left as they were in later passes.
# task: L4/llama@tiny-llama
# measure: e2e
# expect: unwritten_output
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
        self.seen = set()

    def forward(self, input_ids, positions):
        states = [(self.model.embed_tokens(input_ids), None)]
        for layer in self.model.layers:
            hidden_states, residual = states[-1]
            states.append(layer(positions, hidden_states.clone(), residual if residual is None else residual.clone()))
        if len(input_ids) not in self.seen:
            self.seen.add(len(input_ids))
            for index, state in enumerate(states):
                record_layer(index, *state)
        return self.model.norm(*states[-1])[0]

    def compute_logits(self, hidden_states):
        return self.lm_head(hidden_states)
