"""Parallel layers: what they return, what they refuse, and which part of the weights each rank loads."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import distributed
from torch.nn import functional
from torch.testing._internal.distributed.fake_pg import FakeStore

from fastkernels_gym.tasks.baseline.L2.parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from fastkernels_gym.tasks.baseline.L2.parallel_linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)

LAYERS = {
    ReplicatedLinear: (8, 12),
    ColumnParallelLinear: (8, 12),
    MergedColumnParallelLinear: (8, [8, 4]),
    QKVParallelLinear: (8, 2, 4, 1),
    RowParallelLinear: (8, 12),
}
TAIL = "skip_bias_add=False params_dtype=None quant_config=None prefix='' | return_bias=True disable_tp=False"
ROW = TAIL.replace("quant", "reduce_results=True quant")
# vLLM's, in order; what follows the bar is keyword-only.
SIGNATURES = {
    ReplicatedLinear: f"input_size output_size bias=True {TAIL}",
    ColumnParallelLinear: f"input_size output_size bias=True gather_output=False {TAIL} tp_rank=None tp_size=None",
    MergedColumnParallelLinear: f"input_size output_sizes bias=True gather_output=False {TAIL}",
    QKVParallelLinear: (
        f"hidden_size head_size total_num_heads total_num_kv_heads=None bias=True {TAIL} v_head_size=None"
    ),
    RowParallelLinear: f"input_size output_size bias=True input_is_parallel=True {ROW}",
}
VOCABULARY = pytest.mark.parametrize("layer_class", [VocabParallelEmbedding, ParallelLMHead], ids=lambda c: c.__name__)
BY_CLASS = pytest.mark.parametrize("layer_class", LAYERS, ids=lambda c: c.__name__)


@pytest.fixture
def as_rank() -> Callable[[int, int], AbstractContextManager[None]]:
    """`with as_rank(r, n)` makes this process rank r of n, with collectives that move nothing."""

    @contextmanager
    def as_rank(rank: int, ranks: int) -> Iterator[None]:
        distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
        try:
            yield
        finally:
            distributed.destroy_process_group()

    return as_rank


def numbered(*shape: int) -> torch.Tensor:
    """Every element another number: a row or column that went astray is seen."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


def load(layer, name: str, tensor: torch.Tensor, *shard) -> None:
    param = getattr(layer, name)
    param.weight_loader(param, tensor, *shard)


@BY_CLASS
def test_constructors_are_vllms(layer_class) -> None:
    words = []
    for name, p in inspect.signature(layer_class).parameters.items():
        if p.kind is p.KEYWORD_ONLY and "|" not in words:
            words.append("|")
        words.append(name if p.default is p.empty else f"{name}={p.default!r}")
    assert " ".join(words) == SIGNATURES[layer_class]


@BY_CLASS
def test_the_output_comes_with_the_bias_that_was_not_added(layer_class) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 8), torch.randn(12, 8), torch.randn(12)
    if layer_class is QKVParallelLinear:  # 4 heads, and one for keys and one for values, of size 2
        assert layer_class(*LAYERS[layer_class]).weight.shape == weight.shape
    product = functional.linear(x, weight)
    for options, expected_output, returns in [
        ({}, product + bias, None),
        ({"bias": False}, product, None),
        ({"skip_bias_add": True}, product, bias),
        ({"bias": False, "skip_bias_add": True}, product, None),
    ]:
        layer = layer_class(*LAYERS[layer_class], **options)
        load(layer, "weight", weight)
        if options.get("bias", True):
            load(layer, "bias", bias)
        output, extra = layer(x)
        torch.testing.assert_close(output, expected_output)
        assert (extra is None) if returns is None else torch.equal(extra, returns)
        alone = layer_class(*LAYERS[layer_class], **options, return_bias=False)
        alone.load_state_dict(layer.state_dict())
        assert torch.equal(alone(x), output)


@BY_CLASS
def test_parameters_take_the_default_dtype_or_the_given_one(layer_class) -> None:
    assert layer_class(*LAYERS[layer_class]).weight.dtype == torch.float32
    narrow = layer_class(*LAYERS[layer_class], params_dtype=torch.bfloat16)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert [name for name, _ in narrow.named_parameters()] == ["weight", "bias"]


@BY_CLASS
def test_shapes_alone_run_on_meta(layer_class) -> None:
    with torch.device("meta"):
        output, _ = layer_class(*LAYERS[layer_class])(torch.empty(5, 8))
    assert output.is_meta and output.shape == (5, 12)


@BY_CLASS
def test_weights_of_another_shape_are_refused(layer_class) -> None:
    layer = layer_class(*LAYERS[layer_class])
    for name, shape in [("weight", (13, 8)), ("weight", (11, 8)), ("weight", (12, 9)), ("bias", (13,))]:
        with pytest.raises(ValueError, match=r"a weight of shape .* is given for"):
            load(layer, name, torch.zeros(shape))


@pytest.mark.parametrize(
    ("layer_class", "options", "message"),
    [
        *((layer_class, {"quant_config": "fp8"}, "quant_config='fp8' is not supported") for layer_class in LAYERS),
        (ColumnParallelLinear, {"tp_rank": 0}, "tp_rank=0 is not supported"),
        (ColumnParallelLinear, {"tp_size": 1}, "tp_size=1 is not supported"),
        (QKVParallelLinear, {"v_head_size": 4}, "v_head_size=4 is not supported"),
        (RowParallelLinear, {"reduce_results": False}, "not reduced"),
    ],
)
def test_what_is_not_supported_is_refused(layer_class, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        layer_class(*LAYERS[layer_class], **options)
    QKVParallelLinear(8, 2, 4, 1, v_head_size=2)
    RowParallelLinear(8, 12, reduce_results=False, bias=False)
    RowParallelLinear(8, 12, reduce_results=False, skip_bias_add=True)


@pytest.mark.parametrize("rank", range(4))
def test_each_rank_loads_its_rows_or_columns(as_rank, rank) -> None:
    weight, bias = numbered(12, 8), numbered(12)
    rows, columns = slice(3 * rank, 3 * rank + 3), slice(2 * rank, 2 * rank + 2)
    with as_rank(rank, 4):
        for layer, expected_weight, expected_bias in [
            (ReplicatedLinear(8, 12), weight, bias),
            (ColumnParallelLinear(8, 12), weight[rows], bias[rows]),
            (RowParallelLinear(8, 12), weight[:, columns], bias),
            (ColumnParallelLinear(8, 12, disable_tp=True), weight, bias),
            (RowParallelLinear(8, 12, disable_tp=True), weight, bias),
        ]:
            load(layer, "weight", weight)
            load(layer, "bias", bias)
            assert torch.equal(layer.weight, expected_weight) and torch.equal(layer.bias, expected_bias)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("rank", range(2))
def test_a_rank_of_merged_layers_holds_a_share_of_each(as_rank, rank, stacked) -> None:
    gate, up = numbered(8, 3), -numbered(4, 3)
    with as_rank(rank, 2):
        layer = MergedColumnParallelLinear(3, [8, 4])
    for name, parts in [("weight", (gate, up)), ("bias", (gate[:, 1], up[:, 1]))]:
        if stacked:
            load(layer, name, torch.cat(parts))
        else:
            for shard in (1, 0):
                load(layer, name, parts[shard], shard)
        mine = torch.cat([parts[0][4 * rank : 4 * rank + 4], parts[1][2 * rank : 2 * rank + 2]])
        assert torch.equal(getattr(layer, name), mine)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(
    ("ranks", "rank", "q_heads", "kv_heads"),
    [
        (1, 0, [0, 1, 2, 3, 4, 5, 6, 7], [0, 1]),
        (2, 0, [0, 1, 2, 3], [0]),
        (2, 1, [4, 5, 6, 7], [1]),
        (4, 1, [2, 3], [0]),  # fewer KV heads than ranks: two ranks share one
        (4, 2, [4, 5], [1]),
        (8, 7, [7], [1]),
    ],
)
def test_a_rank_of_qkv_holds_its_heads(as_rank, ranks, rank, q_heads, kv_heads, stacked) -> None:
    size = 4
    whole = {"q": numbered(8, size, 5), "k": numbered(2, size, 5) + 1000, "v": numbered(2, size, 5) + 2000}
    with as_rank(rank, ranks):
        layer = QKVParallelLinear(5, size, 8, 2)
    assert (layer.num_heads, layer.num_kv_heads) == (len(q_heads), len(kv_heads))
    for name, parts in [("weight", whole), ("bias", {shard: heads[..., 0] for shard, heads in whole.items()})]:
        if stacked:
            load(layer, name, torch.cat([heads.flatten(0, 1) for heads in parts.values()]))
        else:
            for shard, heads in parts.items():
                load(layer, name, heads.flatten(0, 1), shard)
        mine = torch.cat([parts["q"][q_heads], parts["k"][kv_heads], parts["v"][kv_heads]]).flatten(0, 1)
        assert torch.equal(getattr(layer, name), mine)


@pytest.mark.parametrize("shard", ["q", "k", "v"])
def test_a_shard_of_another_size_is_refused(as_rank, shard) -> None:
    with as_rank(1, 4):
        layer = QKVParallelLinear(5, 4, 8, 2)
    for rows in (36, 28, 4, 12):
        with pytest.raises(ValueError, match=f"a weight of shape \\[{rows}, 5\\]"):
            load(layer, "weight", torch.zeros(rows, 5), shard)


@pytest.mark.parametrize(
    "build",
    [
        lambda: ColumnParallelLinear(8, 13),
        lambda: RowParallelLinear(9, 12),
        lambda: MergedColumnParallelLinear(8, [6, 2]),  # the sum is divisible, the parts are not
        lambda: QKVParallelLinear(8, 2, 6, 2),
        lambda: QKVParallelLinear(8, 2, 12, 6),
        lambda: QKVParallelLinear(8, 2, 12, 3),
    ],
)
def test_what_does_not_split_evenly_is_refused(as_rank, build) -> None:
    with as_rank(0, 4), pytest.raises(ValueError, match="not divisible"):
        build()


def loaded(layer, weight: torch.Tensor):
    layer.weight.data.fill_(float("nan"))
    layer.weight.weight_loader(layer.weight, weight)
    return layer


def test_tokens_get_their_rows() -> None:
    weight, tokens = torch.randn(150, 8), torch.tensor([0, 149, 7, 7])
    assert torch.equal(loaded(VocabParallelEmbedding(150, 8), weight)(tokens), weight[tokens])


@pytest.mark.parametrize("bias", [False, True])
def test_logits_are_of_the_vocabulary_without_its_padding(bias) -> None:
    weight, added, hidden = torch.randn(150, 8), torch.randn(150), torch.randn(3, 8)
    head = loaded(ParallelLMHead(150, 8, bias=bias), weight)
    if bias:
        head.bias.weight_loader(head.bias, added)
    expected = functional.linear(hidden, weight, added if bias else None)
    torch.testing.assert_close(head(hidden), expected)


@VOCABULARY
def test_the_vocabulary_is_padded_with_zeros(layer_class) -> None:
    layer = loaded(layer_class(150, 8), torch.ones(150, 8))
    assert layer.weight.shape == (192, 8) and layer.weight[150:].eq(0).all() and layer.weight[:150].eq(1).all()
    assert layer_class(128, 8).weight.shape == (128, 8)
    assert layer_class(150, 8, padding_size=50).weight.shape == (150, 8)
    assert layer_class(150, 8, params_dtype=torch.bfloat16).weight.dtype == torch.bfloat16


@VOCABULARY
@pytest.mark.parametrize(("rank", "rows"), [(0, slice(0, 48)), (2, slice(96, 144)), (3, slice(144, 150))])
def test_each_rank_loads_its_tokens(as_rank, layer_class, rank, rows) -> None:
    weight = torch.arange(150 * 8.0).view(150, 8)
    with as_rank(rank, 4):
        layer = loaded(layer_class(150, 8), weight)
        whole = layer_class(150, 8, disable_tp=True)
    assert layer.weight.shape == (48, 8) and whole.weight.shape == (192, 8)
    count = rows.stop - rows.start
    assert torch.equal(layer.weight[:count], weight[rows]) and layer.weight[count:].eq(0).all()


def test_a_rank_may_hold_nothing_but_padding(as_rank) -> None:
    with as_rank(3, 4):
        assert loaded(VocabParallelEmbedding(70, 8), torch.ones(70, 8)).weight.eq(0).all()


def test_a_rank_looks_up_its_own_tokens_alone(as_rank) -> None:
    """The process group here sums nothing, so the output is this rank's term of the sum."""
    weight, tokens = torch.randn(150, 8), torch.tensor([0, 95, 96, 149])
    with as_rank(1, 2):
        for reduce in (True, False):
            rows = loaded(VocabParallelEmbedding(150, 8, reduce_results=reduce), weight)(tokens)
            assert rows[:2].eq(0).all() and torch.equal(rows[2:], weight[tokens[2:]])


@VOCABULARY
def test_a_table_of_another_shape_is_refused(layer_class) -> None:
    layer = layer_class(150, 8)
    for shape in ((192, 8), (149, 8), (150, 7)):
        with pytest.raises(ValueError, match=rf"a weight of shape \[{shape[0]}"):
            layer.weight.weight_loader(layer.weight, torch.zeros(shape))


@pytest.mark.parametrize(
    ("layer_class", "options"),
    [
        (VocabParallelEmbedding, {"org_num_embeddings": 100}),
        (VocabParallelEmbedding, {"quant_config": "fp8"}),
        (VocabParallelEmbedding, {"quant_method": "fp8"}),
        (VocabParallelEmbedding, {"parallel_group": "tp"}),
        (ParallelLMHead, {"org_num_embeddings": 100}),
        (ParallelLMHead, {"quant_config": "fp8"}),
    ],
)
def test_what_a_vocabulary_does_not_support_is_refused(layer_class, options) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.* is not supported"):
        layer_class(150, 8, **options)
    assert layer_class(150, 8, org_num_embeddings=150).num_embeddings == 150


def test_a_vocabularys_shapes_alone_run_on_meta(as_rank) -> None:
    with torch.device("meta"):
        tokens, hidden = torch.zeros(5, dtype=torch.int64), torch.empty(5, 8)
        assert VocabParallelEmbedding(150, 8)(tokens).shape == (5, 8)
        assert ParallelLMHead(150, 8)(hidden).shape == (5, 150)
        with as_rank(0, 2):
            assert VocabParallelEmbedding(150, 8)(tokens).shape == (5, 8)
            assert ParallelLMHead(150, 8)(hidden).shape == (5, 150)
