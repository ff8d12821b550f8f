"""Two ranks, real processes that exchange what they computed, compute what one does."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

pytestmark = pytest.mark.xdist_group("ranks")  # one process of the tests starts them, once

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 150,
    "max_position_embeddings": 32,
}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "qwen2, one KV head": (transformers.Qwen2ForCausalLM, {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3ForCausalLM, {"head_dim": 16}),
    "gemma3": (transformers.Gemma3ForCausalLM, {"head_dim": 16, "sliding_window": 3, "final_logit_softcapping": 9.0}),
    "phi3": (transformers.Phi3ForCausalLM, {"pad_token_id": 0, "sliding_window": 3}),
    "mixtral": (transformers.MixtralForCausalLM, {"num_local_experts": 3}),
    "qwen3_moe": (
        transformers.Qwen3MoeForCausalLM,
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
}
SCRIPT = str(Path(__file__).with_name("two_ranks.py"))


def drawn(model_class: Any, changes: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """Class, config and checkpoint of a model with random weights."""
    config = model_class.config_class(**SIZES | changes)
    with torch.device("meta"):
        shapes = {name: param.shape for name, param in model_class(config).named_parameters()}
    generator = torch.Generator().manual_seed(2)
    checkpoint = {
        stacked(name, model_class): torch.randn(shape, generator=generator) * 0.3 + (len(shape) == 1)
        for name, shape in shapes.items()
    }
    # Qwen3-MoE calls its experts by two names, of which it writes one.
    return model_class.__name__, config.to_dict() | changes, checkpoint


def stacked(name: str, model_class: Any) -> str:
    """Our name for a parameter of transformers': experts are stacked in both, under other names."""
    if model_class is transformers.MixtralForCausalLM:
        name = name.replace(".mlp.", ".block_sparse_moe.")
    return name.replace("experts.gate_up_proj", "experts.w13_weight").replace("experts.down_proj", "experts.w2_weight")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """What one rank alone computes, and each of two."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save({name: drawn(*model) for name, model in MODELS.items()}, folder / "models.pt")
    for name in ("llama", "qwen3_moe"):
        model_class, changes = MODELS[name]
        config = model_class.config_class(
            **SIZES | changes, architectures=[model_class.__name__], initializer_range=0.3
        )
        config.save_pretrained(folder / name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(folder)], env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    (alone, first), (_, second) = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    return alone, first, second


@pytest.mark.parametrize("name", ["column", "row", "embedding", "head"])
def test_layers(results, name) -> None:
    alone, first, second = (run["layers"][name] for run in results)
    torch.testing.assert_close(first, alone)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", MODELS)
def test_models(results, name) -> None:
    for alone, first, second in zip(*(run["models"][name] for run in results), strict=True):
        assert alone.std() > 0.3
        torch.testing.assert_close(first, alone, atol=1e-4, rtol=1e-4)
        assert torch.equal(first, second)


def test_engines_of_two_ranks_say_what_one_says(results) -> None:
    alone, first, second = results
    assert first["said"] == second["said"] == alone["said"] and len({*map(tuple, alone["said"])}) == 6
    assert first["drawn"] == second["drawn"]
