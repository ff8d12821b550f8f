"""Attention and feed-forward blocks: their pages, their path, what they refuse."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastkernels_gym.engine.batch import Batch, linear_block_table
from fastkernels_gym.tasks.baseline.forward_context import ForwardContext, set_forward_context
from fastkernels_gym.tasks.baseline.L1.rotary_emb import get_rope
from fastkernels_gym.tasks.baseline.L2.attention import LlamaAttention
from fastkernels_gym.tasks.baseline.L2.gemma3_attention import Gemma3Attention
from fastkernels_gym.tasks.baseline.L2.gemma3_mlp import Gemma3MLP
from fastkernels_gym.tasks.baseline.L2.llama_mlp import LlamaMLP
from fastkernels_gym.tasks.baseline.L2.qwen2_attention import Qwen2Attention
from fastkernels_gym.tasks.baseline.L2.qwen3_attention import Qwen3Attention

HIDDEN, HEADS, KV_HEADS, BLOCK = 32, 4, 2, 4
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
CONFIG = SimpleNamespace(head_dim=None, rope_parameters=ROPE)
GEMMA3 = SimpleNamespace(
    rope_parameters={"sliding_attention": ROPE, "full_attention": ROPE | {"rope_theta": 3.0}},
    layer_types=["full_attention", "sliding_attention"],
    sliding_window=3,
    query_pre_attn_scalar=HIDDEN / HEADS,
    attention_bias=False,
    rms_norm_eps=1e-6,
)


def attention(kind: type, **options: Any) -> Any:
    options = {"prefix": "model.layers.1.self_attn", **options}
    if kind is LlamaAttention:
        return LlamaAttention(CONFIG, HIDDEN, HEADS, KV_HEADS, 64, **options)
    if kind is Gemma3Attention:
        return Gemma3Attention(GEMMA3, HIDDEN, HEADS, KV_HEADS, HIDDEN // HEADS, 64, **options)
    return kind(HIDDEN, HEADS, KV_HEADS, ROPE, 64, **options)


def drawn(module: torch.nn.Module) -> Any:
    generator = torch.Generator().manual_seed(1)
    for param in module.parameters():
        param.data = torch.randn(param.shape, generator=generator) * 0.3 + (param.dim() == 1)
    return module


def caches(pages: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    shape = (pages, BLOCK, KV_HEADS, HIDDEN // HEADS)
    return [(torch.full(shape, 7.0), torch.full(shape, 8.0)) for _ in range(3)]


def run(block: Any, query: list[int], context: list[int], hidden: torch.Tensor, table: torch.Tensor, kv: Any) -> Any:
    batch = Batch.build(query, context, table, BLOCK, torch.device("cpu"), torch.zeros(sum(query), dtype=torch.int64))
    with set_forward_context(ForwardContext(batch.metadata, kv)):
        return block(batch.positions, hidden)


KINDS = pytest.mark.parametrize(
    "kind", [LlamaAttention, Qwen2Attention, Qwen3Attention, Gemma3Attention], ids=lambda c: c.__name__
)


@KINDS
def test_a_step_over_the_cache_equals_the_prompt_at_once(kind) -> None:
    block, hidden = drawn(attention(kind)), torch.randn(12, HIDDEN)
    table = linear_block_table(2, 8, BLOCK, [3, 0, 2, 1])
    whole = run(block, [5, 7], [0, 0], hidden, table, caches(4))
    kv = caches(4)
    begin = run(block, [4, 6], [0, 0], hidden[[0, 1, 2, 3, 5, 6, 7, 8, 9, 10]], table, kv)
    last = run(block, [1, 1], [4, 6], hidden[[4, 11]], table, kv)
    torch.testing.assert_close(begin, whole[[0, 1, 2, 3, 5, 6, 7, 8, 9, 10]])
    torch.testing.assert_close(last, whole[[4, 11]])


@KINDS
def test_a_prompt_in_chunks_equals_the_prompt_at_once(kind) -> None:
    """The second pass holds a chunk, a decode step and a fresh prompt."""
    block, hidden = drawn(attention(kind)), torch.randn(17, HIDDEN)
    table = linear_block_table(3, 8, BLOCK, [3, 0, 2, 1, 5, 4])
    whole = run(block, [8, 5, 4], [0, 0, 0], hidden, table, caches(6))
    kv = caches(6)
    begin, rest = [*range(3), *range(8, 12)], [*range(3, 8), 12, *range(13, 17)]
    torch.testing.assert_close(run(block, [3, 4], [0, 0], hidden[begin], table[:2], kv), whole[begin])
    torch.testing.assert_close(run(block, [5, 1, 4], [3, 4, 0], hidden[rest], table, kv), whole[rest])


@KINDS
def test_only_the_slots_of_the_own_layer_are_written(kind) -> None:
    kv = caches(5)
    table = torch.tensor([[4, 2]], dtype=torch.int32)
    run(drawn(attention(kind)), [6], [0], torch.randn(6, HIDDEN), table, kv)
    written = torch.zeros(5 * BLOCK, dtype=torch.bool)
    written[[16, 17, 18, 19, 8, 9]] = True
    for (keys, values), layer in zip(kv, range(3), strict=True):
        for cache, fill in ((keys, 7.0), (values, 8.0)):
            changed = cache.flatten(0, 1).ne(fill).flatten(1).any(-1)
            assert torch.equal(changed, written if layer == 1 else torch.zeros_like(written))


@KINDS
def test_the_input_stays_as_it_is(kind) -> None:
    hidden = torch.randn(6, HIDDEN)
    before = hidden.clone()
    run(drawn(attention(kind)), [6], [0], hidden, torch.tensor([[0, 1]], dtype=torch.int32), caches(2))
    assert torch.equal(hidden, before)


@KINDS
def test_a_given_rotary_embedding_is_used(kind) -> None:
    rope = get_rope(HIDDEN // HEADS, 64, rope_parameters={"rope_theta": 3.0})
    hidden, table = torch.randn(6, HIDDEN), torch.tensor([[0, 1]], dtype=torch.int32)
    own, given = drawn(attention(kind)), drawn(attention(kind, rotary_emb=rope))
    assert given.rotary_emb is rope
    outputs = [run(block, [6], [0], hidden, table, caches(2)) for block in (own, given)]
    torch.testing.assert_close(outputs[0][0], outputs[1][0])  # position 0 is not rotated
    assert not torch.allclose(outputs[0], outputs[1])


@KINDS
def test_parameters_are_vllms(kind) -> None:
    names = {name for name, _ in attention(kind).named_parameters()}
    norms = {"q_norm.weight", "k_norm.weight"}
    extra = {Qwen2Attention: {"qkv_proj.bias"}, Qwen3Attention: norms, Gemma3Attention: norms}.get(kind, set())
    assert names == {"qkv_proj.weight", "o_proj.weight"} | extra


def test_biases_and_head_size_follow_the_arguments() -> None:
    names = {name for name, _ in attention(LlamaAttention, bias=True, bias_o_proj=True).named_parameters()}
    assert names == {"qkv_proj.weight", "qkv_proj.bias", "o_proj.weight", "o_proj.bias"}
    wide = attention(Qwen3Attention, head_dim=16, qkv_bias=True)
    assert wide.qkv_proj.weight.shape == (128, HIDDEN) and wide.qkv_proj.bias.shape == (128,)
    assert wide.o_proj.weight.shape == (HIDDEN, 64) and wide.q_norm.weight.shape == (16,)


def test_a_prefix_without_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="names no layer"):
        run(attention(LlamaAttention, prefix="self_attn"), [1], [0], torch.zeros(1, HIDDEN), torch.zeros(1, 1), [])


@KINDS
def test_what_attention_does_not_support_is_refused(kind) -> None:
    options = {"quant_config": "fp8", "cache_config": "fp8"}
    if kind is not Gemma3Attention:
        options["attn_type"] = "encoder"
    if kind in (Qwen2Attention, Qwen3Attention):
        options["dual_chunk_attention_config"] = "x"
    if kind is Qwen2Attention:
        options["qk_norm"] = True
    for name, value in options.items():
        with pytest.raises(ValueError, match=f"{name}=.*{value}.* is not supported"):
            attention(kind, **{name: value})


def windowed(kind: type, layer: int) -> Any:
    """Attention whose layer 1 attends to three tokens, its own included, and whose layer 0 attends to all."""
    prefix = f"model.layers.{layer}.self_attn"
    if kind is LlamaAttention:
        config = SimpleNamespace(**vars(CONFIG), layer_types=GEMMA3.layer_types, sliding_window=3)
        return LlamaAttention(config, HIDDEN, HEADS, KV_HEADS, 64, prefix=prefix)
    if kind is Qwen3Attention:
        return attention(kind, prefix=prefix, per_layer_sliding_window=3 if layer else None)
    return attention(kind, prefix=prefix, rotary_emb=get_rope(HIDDEN // HEADS, 64, rope_parameters=ROPE))


@pytest.mark.parametrize("kind", [LlamaAttention, Qwen3Attention, Gemma3Attention], ids=lambda c: c.__name__)
def test_a_window_hides_what_lies_before_it(kind) -> None:
    hidden, table = torch.randn(9, HIDDEN), torch.tensor([[0, 1, 2]], dtype=torch.int32)
    sliding, full = (drawn(windowed(kind, layer)) for layer in (1, 0))
    kv = caches(3)
    whole, all_seen = (run(block, [9], [0], hidden, table, kv) for block in (sliding, full))
    torch.testing.assert_close(whole[:3], all_seen[:3])
    assert ((whole[3:] - all_seen[3:]).abs().amax(-1) > 1e-4).all()
    changed = hidden.clone()
    changed[5] += 1.0
    touched = (run(sliding, [9], [0], changed, table, caches(3)) - whole).abs().amax(-1) > 1e-6
    assert touched.tolist() == [5 <= token < 8 for token in range(9)]
    step = run(sliding, [1], [8], hidden[8:], table, kv)
    torch.testing.assert_close(step, whole[8:])


def test_gemmas_scores_are_scaled_and_capped_as_it_says() -> None:
    with pytest.raises(ValueError, match="no sliding_window"):
        config = SimpleNamespace(**vars(GEMMA3) | {"sliding_window": None})
        Gemma3Attention(config, HIDDEN, HEADS, KV_HEADS, 8, 64, prefix="model.layers.1.self_attn")
    config = SimpleNamespace(**vars(GEMMA3) | {"query_pre_attn_scalar": 4})
    block = Gemma3Attention(
        config, HIDDEN, HEADS, KV_HEADS, 8, 64, attn_logits_soft_cap=20.0, prefix="model.layers.1.self_attn"
    )
    for kernel in (block.prefill, block.decode):
        assert (kernel.scale, kernel.logits_soft_cap, kernel.sliding_window) == (0.5, 20.0, 3)


@pytest.mark.parametrize("layer, base", [(0, 3.0), (1, 10000.0)])
def test_gemmas_layers_rotate_as_their_kind_does(layer, base) -> None:
    rotary = attention(Gemma3Attention, prefix=f"model.layers.{layer}.self_attn").rotary_emb
    wanted = get_rope(HIDDEN // HEADS, 64, rope_parameters={"rope_theta": base})
    assert torch.equal(rotary.cos_sin_cache, wanted.cos_sin_cache)


def test_gemmas_mlp_gates_with_its_first_half() -> None:
    mlp, x = drawn(Gemma3MLP(8, 12, "gelu_pytorch_tanh")), torch.randn(3, 8)
    gate, up = (x @ mlp.gate_up_proj.weight.T).split(12, dim=-1)
    expected = (torch.nn.functional.gelu(gate, approximate="tanh") * up) @ mlp.down_proj.weight.T
    torch.testing.assert_close(mlp(x), expected)
    assert {name for name, _ in mlp.named_parameters()} == {"gate_up_proj.weight", "down_proj.weight"}


def test_the_mlp_gates_with_its_first_half() -> None:
    mlp, x = drawn(LlamaMLP(8, 12, "silu", bias=True)), torch.randn(3, 8)
    gate, up = (x @ mlp.gate_up_proj.weight.T + mlp.gate_up_proj.bias).split(12, dim=-1)
    expected = (torch.nn.functional.silu(gate) * up) @ mlp.down_proj.weight.T + mlp.down_proj.bias
    torch.testing.assert_close(mlp(x), expected)
    assert {name for name, _ in LlamaMLP(8, 12, "silu").named_parameters()} == {
        "gate_up_proj.weight",
        "down_proj.weight",
    }


def test_what_the_mlp_does_not_support_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden_act='gelu' is not supported"):
        LlamaMLP(8, 12, "gelu")
    with pytest.raises(ValueError, match="hidden_activation='silu' is not supported"):
        Gemma3MLP(8, 12, "silu")
    with pytest.raises(ValueError, match="quant_config='fp8' is not supported"):
        LlamaMLP(8, 12, "silu", quant_config="fp8")
