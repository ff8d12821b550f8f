import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

# Two of vLLM's traps on purpose: a vocabulary that needs padding, and a head size that is not hidden / heads.
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 150,
    "max_position_embeddings": 128,
    "eos_token_id": None,
    "initializer_range": 0.3,
    "dtype": "float32",
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Saved:
    """A model of transformers' and the folder it was saved in."""

    module: Any
    folder: Path

    def logits(self, prompt: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.module(torch.tensor([prompt])).logits[0]

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        mask = torch.ones(1, len(prompt), dtype=torch.int64)
        out = self.module.generate(
            torch.tensor([prompt]), attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0
        )
        return out[0, len(prompt) :].tolist()


def save(module: Any, folder: Path, **kwargs: Any) -> Saved:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():  # transformers leaves norms at one and biases at zero
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    module.eval().save_pretrained(folder, **kwargs)
    assert json.loads((folder / "config.json").read_text())["architectures"]
    return Saved(module, folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    config = transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3)
    return save(transformers.LlamaForCausalLM(config), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    config = transformers.Qwen2Config(**SIZES, tie_word_embeddings=True)
    return save(transformers.Qwen2ForCausalLM(config), tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    config = transformers.Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)
    return save(transformers.Qwen3ForCausalLM(config), tmp_path_factory.mktemp("qwen3"), max_shard_size="60KB")


@pytest.fixture(scope="session")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Windows of 8 in its first layer, which most sequences outgrow."""
    kinds = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(
        **SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=8, layer_types=kinds, bos_token_id=None
    )
    return save(transformers.Gemma3ForCausalLM(config), tmp_path_factory.mktemp("gemma3"), max_shard_size="60KB")


@pytest.fixture(scope="session")
def phi3(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    config = transformers.Phi3Config(**SIZES, rope_parameters=rope, sliding_window=8, pad_token_id=0, bos_token_id=None)
    return save(transformers.Phi3ForCausalLM(config), tmp_path_factory.mktemp("phi3"))


@pytest.fixture(scope="session")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    config = transformers.MixtralConfig(**SIZES, num_local_experts=5, num_experts_per_tok=2, bos_token_id=None)
    return save(transformers.MixtralForCausalLM(config), tmp_path_factory.mktemp("mixtral"), max_shard_size="60KB")


@pytest.fixture(scope="session")
def qwen3_moe(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    experts = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "norm_topk_prob": True}
    config = transformers.Qwen3MoeConfig(**SIZES, **experts, head_dim=16)
    return save(transformers.Qwen3MoeForCausalLM(config), tmp_path_factory.mktemp("qwen3_moe"))
