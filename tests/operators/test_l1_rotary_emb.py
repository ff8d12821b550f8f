import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as apply_partial_rotary_pos_emb

from fastkernels_gym.tasks.baseline.L1.rotary_emb import RotaryEmbedding, get_rope

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
PARAMETERS = [
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    LLAMA3,
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda p: p["rope_type"])
@pytest.mark.parametrize("head_size", [64, 96, 128])
def test_equals_transformers(parameters, head_size):
    heads, kv_heads, length = 4, 2, 2048
    config = LlamaConfig(
        hidden_size=heads * head_size,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_size,
        max_position_embeddings=length,
        rope_parameters=dict(parameters),
    )
    positions = torch.randint(length, (9,))
    query, key = torch.randn(9, heads, head_size), torch.randn(9, kv_heads, head_size)
    cos, sin = LlamaRotaryEmbedding(config)(query, positions[None])
    wanted = apply_rotary_pos_emb(query.transpose(0, 1)[None], key.transpose(0, 1)[None], cos, sin)
    rope = get_rope(head_size, length, rope_parameters=config.rope_parameters)
    turned = rope(positions, query.flatten(1), key.flatten(1))
    for ours, theirs in zip(turned, wanted, strict=True):
        torch.testing.assert_close(ours, theirs[0].transpose(0, 1).flatten(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("length, asked", [(2048, 2048), (256, 200)])
def test_longrope_equals_transformers_for_what_its_table_is_for(length, asked):
    """Transformers decides by the sequence at hand, the table by its own length, as vLLM's does."""
    parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0 + i / 50 for i in range(24)],
        "long_factor": [1.0 + i / 3 for i in range(24)],
    }
    config = Phi3Config(
        hidden_size=4 * 64,
        num_attention_heads=4,
        max_position_embeddings=length,
        original_max_position_embeddings=256,
        rope_parameters=parameters,
        pad_token_id=0,
    )
    positions = torch.tensor([asked - 1, 0, 3, asked // 2])
    query, key = torch.randn(4, 4, 64), torch.randn(4, 2, 64)
    cos, sin = Phi3RotaryEmbedding(config)(query, positions[None])
    wanted = apply_partial_rotary_pos_emb(query.transpose(0, 1)[None], key.transpose(0, 1)[None], cos, sin)
    rope = get_rope(64, length, rope_parameters=config.rope_parameters)
    turned = rope(positions, query.flatten(1), key.flatten(1))
    for ours, theirs in zip(turned, wanted, strict=True):
        torch.testing.assert_close(ours, theirs[0].transpose(0, 1).flatten(1), rtol=1e-5, atol=1e-4)


def test_pairs_of_gptj_turn_as_complex_numbers():
    rope = get_rope(8, 64, is_neox_style=False)
    positions, query = torch.arange(50), torch.randn(50, 3 * 8)
    angles = torch.outer(positions.double(), 10000.0 ** (-torch.arange(0, 8, 2).double() / 8))
    numbers = (
        torch.view_as_complex(query.double().view(50, 3, 4, 2)) * torch.polar(torch.ones(()).double(), angles)[:, None]
    )
    turned, key = rope(positions, query)
    assert key is None
    torch.testing.assert_close(turned, torch.view_as_real(numbers).reshape(50, 24).float(), rtol=1e-5, atol=1e-5)


def test_leaves_what_lies_beyond_rotary_dim():
    rope = get_rope(16, 32, rope_parameters={"partial_rotary_factor": 0.5})
    query = torch.randn(4, 3 * 16)
    turned, _ = rope(torch.tensor([0, 1, 7, 31]), query)
    before, after = query.view(4, 3, 16), turned.view(4, 3, 16)
    assert torch.equal(after[..., 8:], before[..., 8:]) and not torch.equal(after[1:, :, :8], before[1:, :, :8])
    assert torch.equal(after[0], before[0])


def test_keeps_float64_and_its_arguments():
    rope, positions = get_rope(8, 16, dtype=torch.float64).double(), torch.arange(5)
    query = torch.randn(5, 16, dtype=torch.float64)
    before = query.clone()
    turned, _ = rope(positions, query)
    cos, sin = rope.cos_sin_cache[positions].chunk(2, -1)
    a, b = query.view(5, 2, 2, 4).unbind(2)
    wanted = torch.cat([a * cos[:, None] - b * sin[:, None], b * cos[:, None] + a * sin[:, None]], -1).view(5, 16)
    torch.testing.assert_close(turned, wanted, rtol=1e-15, atol=1e-15)
    assert torch.equal(query, before)


def test_table_has_the_model_dtype_and_is_not_saved():
    rope = get_rope(64, 32, dtype=torch.bfloat16)
    assert rope.cos_sin_cache.shape == (32, 64) and rope.cos_sin_cache.dtype == torch.bfloat16
    assert not rope.state_dict()


def test_names_the_scalings_that_there_are():
    with pytest.raises(ValueError, match="'yarn' is not supported.*llama3"):
        get_rope(64, 32, rope_parameters={"rope_type": "yarn"})
    with pytest.raises(ValueError, match="init_cache"):
        RotaryEmbedding(8, 8, 4, 10000.0, True, torch.float32, init_cache=False)


@pytest.mark.parametrize("neox", [True, False])
@pytest.mark.parametrize(
    "tokens, heads, kv_heads, head_size", [(5, 4, 2, 64), (1, 1, 1, 2), (3, 11, 3, 20), (0, 2, 2, 8)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernel_rotates_views_in_place(interpreted, tokens, heads, kv_heads, head_size, dtype, neox):
    rope, positions = get_rope(head_size, 32, neox, dtype=dtype), torch.randint(32, (tokens,))
    packed = torch.randn(tokens, (heads + 2 * kv_heads) * head_size).to(dtype)
    query, key, value = packed.split([heads * head_size, kv_heads * head_size, kv_heads * head_size], dim=-1)
    wanted = rope(positions, query, key)
    arguments = (positions, query, key, rope.cos_sin_cache, head_size, neox)
    _, after = interpreted("rotary_emb.rotate", *arguments)
    torch.testing.assert_close(after[1:3], wanted)
    assert torch.equal(after[2].as_strided(value.shape, value.stride(), value.storage_offset()), value)


def test_kernel_rotates_a_part_of_each_head_and_queries_alone(interpreted):
    rope = get_rope(16, 32, rope_parameters={"partial_rotary_factor": 0.5})
    positions, query = torch.tensor([3, 31]), torch.randn(2, 3 * 16)
    wanted, _ = rope(positions, query)
    _, after = interpreted("rotary_emb.rotate", positions, query, None, rope.cos_sin_cache, 16, True)
    torch.testing.assert_close(after[1], wanted)
