"""Decoder layers: their attention, and the residual's way through them."""

import pytest
import torch
import transformers

from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, linear_block_table
from fastkernels_gym.tasks.baseline.forward_context import ForwardContext, set_forward_context
from fastkernels_gym.tasks.baseline.L2.attention import LlamaAttention
from fastkernels_gym.tasks.baseline.L2.gemma3_attention import Gemma3Attention
from fastkernels_gym.tasks.baseline.L2.qwen2_attention import Qwen2Attention
from fastkernels_gym.tasks.baseline.L2.qwen3_attention import Qwen3Attention
from fastkernels_gym.tasks.baseline.L3.gemma3_decoder import Gemma3DecoderLayer
from fastkernels_gym.tasks.baseline.L3.llama_decoder import LlamaDecoderLayer
from fastkernels_gym.tasks.baseline.L3.mixtral_decoder import MixtralDecoderLayer
from fastkernels_gym.tasks.baseline.L3.qwen2_decoder import Qwen2DecoderLayer
from fastkernels_gym.tasks.baseline.L3.qwen3_decoder import Qwen3DecoderLayer
from fastkernels_gym.tasks.baseline.L3.qwen3_moe_decoder import Qwen3MoeDecoderLayer

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LAYERS = {
    LlamaDecoderLayer: (transformers.LlamaConfig(**SIZES), LlamaAttention),
    Qwen2DecoderLayer: (transformers.Qwen2Config(**SIZES), Qwen2Attention),
    Qwen3DecoderLayer: (transformers.Qwen3Config(**SIZES, head_dim=16), Qwen3Attention),
    MixtralDecoderLayer: (transformers.MixtralConfig(**SIZES, num_local_experts=3), LlamaAttention),
    Qwen3MoeDecoderLayer: (
        transformers.Qwen3MoeConfig(
            **SIZES, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24
        ),
        Qwen3Attention,
    ),
    Gemma3DecoderLayer: (transformers.Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=3), Gemma3Attention),
}
QUERY, BLOCK = [5, 3], 4


@pytest.fixture(params=LAYERS, ids=lambda c: c.__name__)
def layer(request):
    config, _ = LAYERS[request.param]
    built = request.param(config, prefix="model.layers.1")
    generator = torch.Generator().manual_seed(1)
    for param in built.parameters():
        param.data = torch.randn(param.shape, generator=generator) * 0.3 + (param.dim() == 1)
    return built


def run(block, config, *inputs, device: str = "cpu"):
    """Runs a layer, or its attention, on two new sequences."""
    table = linear_block_table(2, 8, BLOCK)
    batch = Batch.build(QUERY, [0, 0], table, BLOCK, torch.device("cpu"), torch.zeros(8, dtype=torch.int64))
    caches = allocate_kv_caches(config, table.numel(), BLOCK, torch.device(device), torch.float32)
    with set_forward_context(ForwardContext(batch.metadata, caches)):
        return block(batch.positions.to(device), *inputs)


def test_a_layer_uses_its_own_familys_attention(layer) -> None:
    _, attention = LAYERS[type(layer)]
    assert type(layer.self_attn) is attention
    assert layer.self_attn.prefix == "model.layers.1.self_attn"
    names = {name.partition(".")[0] for name, _ in layer.named_parameters()}
    sandwich = {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
    norms = {"input_layernorm", "post_attention_layernorm"} | (sandwich if attention is Gemma3Attention else set())
    block = "block_sparse_moe" if isinstance(layer, MixtralDecoderLayer) else "mlp"
    assert names == {"self_attn", block} | norms


def test_without_a_residual_the_input_is_the_residual(layer) -> None:
    config, _ = LAYERS[type(layer)]
    hidden = torch.randn(8, 32)
    first = run(layer, config, hidden.clone(), None)
    split = torch.randn(8, 32)
    later = run(layer, config, hidden - split, split.clone())
    for ours, expected in zip(first, later, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_output_and_residual_add_up_to_the_block_of_the_paper(layer) -> None:
    config, _ = LAYERS[type(layer)]
    hidden, residual = torch.randn(8, 32), torch.randn(8, 32)
    x = hidden + residual
    output, remaining = run(layer, config, hidden.clone(), residual.clone())

    gemma = isinstance(layer, Gemma3DecoderLayer)

    def normed(norm, y):
        return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + norm.variance_epsilon) * (norm.weight + gemma)

    attention = run(layer.self_attn, config, normed(layer.input_layernorm, x))
    attended = x + (normed(layer.post_attention_layernorm, attention) if gemma else attention)
    torch.testing.assert_close(remaining, attended, atol=1e-5, rtol=1e-5)
    block = layer.block_sparse_moe if isinstance(layer, MixtralDecoderLayer) else layer.mlp
    mlp = block(normed(layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm, attended))
    expected = attended + (normed(layer.post_feedforward_layernorm, mlp) if gemma else mlp)
    torch.testing.assert_close(output + remaining, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("with_residual", [False, True])
def test_shapes_alone_run_on_meta(layer, with_residual) -> None:
    config, _ = LAYERS[type(layer)]
    hidden = torch.empty(8, 32, device="meta")
    outputs = run(layer.to("meta"), config, hidden, hidden.clone() if with_residual else None, device="meta")
    assert [(x.shape, x.dtype, x.is_meta) for x in outputs] == [((8, 32), torch.float32, True)] * 2
