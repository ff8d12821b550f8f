"""Whole models compute what transformers computes, from the same checkpoint, over paged keys and values."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from fastkernels_gym.catalog import bundled_models, load_model_config
from fastkernels_gym.catalog.operators import find_operator
from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, linear_block_table
from fastkernels_gym.engine.step import forward_logits
from fastkernels_gym.tasks.baseline.L4.gemma3 import Gemma3ForCausalLM
from fastkernels_gym.tasks.baseline.L4.llama import LlamaForCausalLM
from fastkernels_gym.tasks.baseline.L4.mixtral import MixtralForCausalLM
from fastkernels_gym.tasks.baseline.L4.phi3 import Phi3ForCausalLM
from fastkernels_gym.tasks.baseline.L4.qwen2 import Qwen2ForCausalLM
from fastkernels_gym.tasks.baseline.L4.qwen3 import Qwen3ForCausalLM
from fastkernels_gym.tasks.baseline.L4.qwen3_moe import Qwen3MoeForCausalLM

# A vocabulary that needs padding, and fewer KV heads than heads.
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 150,
    "max_position_embeddings": 128,
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
# Windows of 8: two of the three prompts are longer.
GEMMA3 = {
    "head_dim": 32,
    "query_pre_attn_scalar": 24,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
# Every sequence grows beyond the 16 tokens of its pretraining, from where on transformers takes the long factors.
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0] * 6,
    "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
}
EXPERTS = {"head_dim": 32, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
# Name -> transformers' class, ours, and what the config says beside the sizes.
FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaForCausalLM, LlamaForCausalLM, {"rope_parameters": LLAMA3}),
    "llama with biases, tied": (
        transformers.LlamaForCausalLM,
        LlamaForCausalLM,
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
    "qwen2": (transformers.Qwen2ForCausalLM, Qwen2ForCausalLM, {"rms_norm_eps": 1e-5}),
    "qwen3": (transformers.Qwen3ForCausalLM, Qwen3ForCausalLM, {"head_dim": 32, "tie_word_embeddings": True}),
    "qwen3 with windows": (
        transformers.Qwen3ForCausalLM,
        Qwen3ForCausalLM,
        {"head_dim": 32, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "gemma3": (transformers.Gemma3ForCausalLM, Gemma3ForCausalLM, GEMMA3),
    "gemma3 with biases, capped logits and stretched positions": (
        transformers.Gemma3ForCausalLM,
        Gemma3ForCausalLM,
        GEMMA3
        | {
            "attention_bias": True,
            "final_logit_softcapping": 3.0,
            "tie_word_embeddings": False,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "num_key_value_heads": 1,
        },
    ),
    "phi3": (
        transformers.Phi3ForCausalLM,
        Phi3ForCausalLM,
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
            "sliding_window": 8,
            "pad_token_id": 0,
        },
    ),
    "phi3 with longrope, tied": (
        transformers.Phi3ForCausalLM,
        Phi3ForCausalLM,
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 16,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
        },
    ),
    "mixtral": (transformers.MixtralForCausalLM, MixtralForCausalLM, {"num_local_experts": 5}),
    "qwen3_moe": (transformers.Qwen3MoeForCausalLM, Qwen3MoeForCausalLM, {**EXPERTS, "norm_topk_prob": True}),
    "qwen3_moe, weights as they are, one layer dense": (
        transformers.Qwen3MoeForCausalLM,
        Qwen3MoeForCausalLM,
        {**EXPERTS, "mlp_only_layers": [1], "tie_word_embeddings": True},
    ),
}
CPU = torch.device("cpu")
CLASSES = {
    "L4/llama": LlamaForCausalLM,
    "L4/qwen2": Qwen2ForCausalLM,
    "L4/qwen3": Qwen3ForCausalLM,
    "L4/gemma3": Gemma3ForCausalLM,
    "L4/phi3": Phi3ForCausalLM,
    "L4/mixtral": MixtralForCausalLM,
    "L4/qwen3_moe": Qwen3MoeForCausalLM,
}
PROMPTS, STEPS, BLOCK = [1, 21, 9], 16, 4
# As published: numbers of parameters of the safetensors, tied ones once.
PUBLISHED = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-8b": 8_190_735_360,
    "gemma-3-1b": 999_885_952,
    "gemma-3-4b": 3_880_263_168,  # without the vision tower
    "phi-4": 14_659_507_200,
    "phi-4-mini": 3_836_021_760,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """Transformers' model, our class and the weights as they lie in the saved checkpoint."""
    theirs, ours, changes = FAMILIES[request.param]
    reference = theirs(theirs.config_class(**SIZES | changes)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for param in reference.parameters():  # transformers leaves norms at one and biases at zero
            param.copy_(torch.randn(param.shape, generator=generator) * 0.2 + (param.dim() == 1))
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    reference.save_pretrained(folder)
    return reference, ours, load_file(folder / "model.safetensors")


def load(family) -> torch.nn.Module:
    reference, ours, checkpoint = family
    model = ours(reference.config)
    model.load_weights(checkpoint.items())
    return model


@torch.no_grad()
def test_prefill_and_cached_decode_steps_are_transformers(family) -> None:
    reference, _, _ = family
    model, config = load(family), family[0].config
    generator = torch.Generator().manual_seed(5)
    tokens = [torch.randint(config.vocab_size, (n + STEPS,), generator=generator) for n in PROMPTS]
    expected = [reference(sequence[None]).logits[0] for sequence in tokens]

    pages = len(PROMPTS) * -(-(max(PROMPTS) + STEPS) // BLOCK)
    order = torch.randperm(pages, generator=generator).tolist()
    table = linear_block_table(len(PROMPTS), max(PROMPTS) + STEPS, BLOCK, order)
    caches = allocate_kv_caches(config, pages, BLOCK, CPU, torch.float32)

    prompt = torch.cat([sequence[:n] for sequence, n in zip(tokens, PROMPTS, strict=True)])
    logits = forward_logits(model, Batch.build(PROMPTS, [0] * 3, table, BLOCK, CPU, prompt), caches)
    wanted = torch.cat([rows[:n] for rows, n in zip(expected, PROMPTS, strict=True)])
    assert wanted.std() > 0.5, "logits must be large enough for the tolerance to mean something"
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)

    for step in range(STEPS):
        lengths = [n + step for n in PROMPTS]
        following = torch.stack([sequence[n] for sequence, n in zip(tokens, lengths, strict=True)])
        logits = forward_logits(model, Batch.build([1] * 3, lengths, table, BLOCK, CPU, following), caches)
        wanted = torch.stack([rows[n] for rows, n in zip(expected, lengths, strict=True)])
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)


def test_packed_weights_may_come_whole(family) -> None:
    model = load(family)
    again = family[1](family[0].config)
    whole = {
        n: t[: SIZES["vocab_size"]] if "embed" in n or "lm_head" in n else t for n, t in model.state_dict().items()
    }
    assert again.load_weights(whole.items()) == {name for name, _ in model.named_parameters()}
    for (name, param), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(param, other), name


def test_tied_weights_are_one_parameter(family) -> None:
    reference, _, checkpoint = family
    model, tied = load(family), family[0].config.tie_word_embeddings
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert ("lm_head.weight" in dict(model.named_parameters())) != tied
    assert ("lm_head.weight" in checkpoint) != tied
    if tied:  # some checkpoints hold the tied weight twice, and older ones the rotary table
        head = reference.lm_head.weight
        inv_freq = ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(8))
        model.load_weights([*checkpoint.items(), ("lm_head.weight", head), inv_freq])


def test_every_weight_that_is_missing_is_named(family) -> None:
    _, ours, checkpoint = family
    for name in checkpoint:
        rest = {other: tensor for other, tensor in checkpoint.items() if other != name}
        with pytest.raises(ValueError, match=f"the checkpoint lacks {name}$"):
            ours(family[0].config).load_weights(rest.items())


def test_a_weight_without_a_place_or_of_another_shape_is_named(family) -> None:
    reference, ours, checkpoint = family
    for name in ("model.layers.3.mlp.up_proj.weight", "model.embed_positions.weight", "weight"):
        with pytest.raises(ValueError, match=f"{name} has no place in {ours.__name__}"):
            ours(reference.config).load_weights([(name, torch.zeros(1))])
    for name, tensor in checkpoint.items():
        wrong = torch.cat([tensor, tensor[:1]])
        with pytest.raises(ValueError, match=f"{name}: a weight of shape \\[{len(wrong)}"):
            ours(reference.config).load_weights([(name, wrong)])


def test_layers_of_one_kind_share_one_rotary_embedding(family) -> None:
    model, config = load(family), family[0].config
    kinds = {*config.layer_types} if "full_attention" in config.rope_parameters else {"any"}
    assert len({id(layer.self_attn.rotary_emb) for layer in model.model.layers}) == len(kinds)
    assert not any("cos_sin_cache" in name for name in model.state_dict())


def test_kinds_of_attention_that_cannot_be_done_are_refused(family) -> None:
    reference, ours, _ = family
    config = type(reference.config)(**reference.config.to_dict())
    config.layer_types, config.sliding_window = ["full_attention", "sliding_attention", "full_attention"], None
    with pytest.raises(ValueError, match="sliding_attention"):
        ours(config)
    config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    with pytest.raises(ValueError, match=r"layer_types=\['chunked_attention'\] is not supported"):
        ours(config)


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_have_their_size_and_run_on_meta(name) -> None:
    model = load_model_config(name)
    config, batch, length = model.config, 3, 8
    operator = CLASSES[find_operator(model.l4).id]
    default = torch.get_default_dtype()
    torch.set_default_dtype(model.dtype)
    try:
        with torch.device("meta"):
            module = operator(config)
    finally:
        torch.set_default_dtype(default)
    count = sum(param.numel() for param in module.parameters())
    assert count == PUBLISHED.get(name, count)
    assert len(module.model.layers) == config.num_hidden_layers
    assert {param.dtype for param in module.parameters()} == {model.dtype}

    table = linear_block_table(batch, length + 1, BLOCK)
    caches = allocate_kv_caches(config, table.numel(), BLOCK, torch.device("meta"), model.dtype)
    for query, context in ((length, 0), (1, length)):
        tokens = torch.zeros(batch * query, dtype=torch.int64)
        built = Batch.build([query] * batch, [context] * batch, table, BLOCK, CPU, tokens)
        on_meta = Batch(built.input_ids.to("meta"), built.positions.to("meta"), built.metadata)
        logits = forward_logits(module, on_meta, caches)
        assert (logits.shape, logits.dtype) == ((batch * query, config.vocab_size), model.dtype) and logits.is_meta
