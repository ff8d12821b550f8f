"""What every L1 operator owes its users, whatever it computes."""

import importlib
import pkgutil

import pytest
import torch
from torch import nn

from fastkernels_gym.tasks.baseline import L1
from fastkernels_gym.tasks.baseline.forward_context import (
    AttentionMetadata,
    ForwardContext,
    get_forward_context,
    layer_index,
    reference_mode,
    set_forward_context,
)
from fastkernels_gym.tasks.baseline.L1.embedding import Embedding
from fastkernels_gym.tasks.baseline.L1.flash_attn_decode import FlashAttnDecode
from fastkernels_gym.tasks.baseline.L1.flash_attn_prefill import FlashAttnPrefill
from fastkernels_gym.tasks.baseline.L1.gelu_and_mul import GeluAndMul
from fastkernels_gym.tasks.baseline.L1.gemma_rms_norm import GemmaRMSNorm
from fastkernels_gym.tasks.baseline.L1.linear import Linear
from fastkernels_gym.tasks.baseline.L1.rms_norm import RMSNorm
from fastkernels_gym.tasks.baseline.L1.rotary_emb import get_rope
from fastkernels_gym.tasks.baseline.L1.silu_and_mul import SiluAndMul
from fastkernels_gym.tasks.baseline.L1.store_kvcache import StoreKVCache
from fastkernels_gym.tasks.baseline.operator import Operator

FILES = [module.name for module in pkgutil.iter_modules(L1.__path__)]


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_one_operator(name):
    module = importlib.import_module(f"{L1.__name__}.{name}")
    (operator,) = (getattr(module, public) for public in module.__all__)
    assert issubclass(operator, Operator) and operator.__module__ == module.__name__
    assert operator.forward is Operator.forward and operator.forward_native is not Operator.forward_native


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_shapes_on_meta():
    x, ints = meta(6, 32), torch.tensor([0, 2, 6], dtype=torch.int32)
    norm, gemma_norm = RMSNorm(32, dtype=torch.bfloat16).to("meta"), GemmaRMSNorm(32).to("meta", torch.bfloat16)
    cache, slots = meta(4, 16, 2, 8), torch.arange(6)
    assert norm(x).shape == (6, 32)
    assert [t.shape for t in norm(x, x)] == [(6, 32), (6, 32)]
    assert [t.shape for t in gemma_norm(x, x)] == [(6, 32), (6, 32)] and gemma_norm(x).dtype == torch.bfloat16
    assert SiluAndMul()(x).shape == GeluAndMul()(x).shape == (6, 16)
    assert Linear()(x, meta(5, 32), meta(5)).shape == (6, 5)
    assert Embedding()(meta(6, dtype=torch.int64), meta(9, 7)).shape == (6, 7)
    turned = get_rope(8, 64, dtype=torch.bfloat16).to("meta")(meta(6, dtype=torch.int64), x, meta(6, 16))
    assert [t.shape for t in turned] == [(6, 32), (6, 16)]
    assert StoreKVCache()(meta(6, 2, 8), meta(6, 2, 8), cache, cache, slots) is None
    prefill, decode = FlashAttnPrefill(4, 8, 1.0, 2), FlashAttnDecode(4, 8, 1.0, 2)
    assert prefill(meta(6, 4, 8), meta(6, 2, 8), meta(6, 2, 8), ints, 4).shape == (6, 4, 8)
    assert decode(meta(2, 4, 8), cache, cache, ints.view(1, 3).expand(2, 3), ints[1:], 6).dtype == torch.bfloat16


class Told(Operator):
    """Says which implementation ran."""

    def forward_native(self, x, *, y=None):
        return "native"

    def forward_cuda(self, x, *, y=None):
        return "cuda"


def test_tensors_off_the_gpu_take_the_reference():
    told = Told()
    assert told(torch.ones(1)) == told(None, y=torch.ones(1)) == told(None) == "native"
    with reference_mode():
        assert told(torch.ones(1)) == "native"


@pytest.mark.gpu
def test_tensors_on_the_gpu_take_the_baseline():
    told, x = Told(), torch.ones(1, device="cuda")
    assert told(x) == told(None, y=x) == "cuda"
    with reference_mode():
        assert told(x) == "native"
    assert told(x) == "cuda"


def test_an_operator_without_reference_says_so():
    class Lacking(Operator):
        pass

    with pytest.raises(NotImplementedError, match="Lacking has no reference"):
        Lacking()(torch.ones(1))
    assert isinstance(Lacking(), nn.Module)


def test_forward_context_nests_and_finds_layers():
    ints = torch.zeros(1, dtype=torch.int32)
    caches = [(torch.full((1,), float(i)), torch.zeros(1)) for i in range(12)]
    contexts = [ForwardContext(AttentionMetadata(ints, ints, ints, ints.long(), n, 9), caches) for n in (1, 4)]
    with set_forward_context(contexts[0]):
        assert get_forward_context().attn_metadata.is_decode
        with set_forward_context(contexts[1]):
            assert not get_forward_context().attn_metadata.is_decode
        assert get_forward_context() is contexts[0]
    with pytest.raises(RuntimeError, match="no forward context"):
        get_forward_context()
    assert contexts[0].layer_cache("model.layers.11.self_attn")[0] == 11
    assert layer_index("layers.3") == 3
    with pytest.raises(ValueError, match="names no layer"):
        layer_index("model.players.3.self_attn")
