"""Attention and feed-forward blocks: their pages, their path, what they refuse."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastkernels_gym.engine.batch import Batch, linear_block_table
from fastkernels_gym.tasks.baseline.forward_context import ForwardContext, set_forward_context
from fastkernels_gym.tasks.baseline.L1.rotary_emb import get_rope
from fastkernels_gym.tasks.baseline.L2.attention import LlamaAttention
from fastkernels_gym.tasks.baseline.L2.llama_mlp import LlamaMLP
from fastkernels_gym.tasks.baseline.L2.qwen2_attention import Qwen2Attention
from fastkernels_gym.tasks.baseline.L2.qwen3_attention import Qwen3Attention

HIDDEN, HEADS, KV_HEADS, BLOCK = 32, 4, 2, 4
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
CONFIG = SimpleNamespace(head_dim=None, rope_parameters=ROPE)


def attention(kind: type, **options: Any) -> Any:
    options = {"prefix": "model.layers.1.self_attn", **options}
    if kind is LlamaAttention:
        return LlamaAttention(CONFIG, HIDDEN, HEADS, KV_HEADS, 64, **options)
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


KINDS = pytest.mark.parametrize("kind", [LlamaAttention, Qwen2Attention, Qwen3Attention], ids=lambda c: c.__name__)


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
    extra = {Qwen2Attention: {"qkv_proj.bias"}, Qwen3Attention: {"q_norm.weight", "k_norm.weight"}}.get(kind, set())
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
    options = {"quant_config": "fp8", "cache_config": "fp8", "attn_type": "encoder"}
    if kind is not LlamaAttention:
        options["dual_chunk_attention_config"] = "x"
    if kind is Qwen2Attention:
        options["qk_norm"] = True
    if kind is Qwen3Attention:
        options["per_layer_sliding_window"] = 0
    for name, value in options.items():
        with pytest.raises(ValueError, match=f"{name}=.*{value}.* is not supported"):
            attention(kind, **{name: value})


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
    with pytest.raises(ValueError, match="quant_config='fp8' is not supported"):
        LlamaMLP(8, 12, "silu", quant_config="fp8")
