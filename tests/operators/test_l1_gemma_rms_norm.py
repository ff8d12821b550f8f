import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from fastkernels_gym.tasks.baseline.L1.gemma_rms_norm import GemmaRMSNorm


def norm(size: int, dtype: torch.dtype = torch.float32, eps: float = 1e-6) -> GemmaRMSNorm:
    module = GemmaRMSNorm(size, eps).to(dtype)
    module.weight.data += (0.3 * torch.randn(size)).to(dtype)
    return module


@pytest.mark.parametrize("shape", [(3, 64), (1, 1), (2, 5, 33), (7,), (0, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_transformers(shape, dtype):
    module, x = norm(shape[-1], dtype, 1e-5), torch.randn(shape).to(dtype)
    theirs = Gemma3RMSNorm(shape[-1], 1e-5).to(dtype)
    theirs.weight.data = module.weight.data
    torch.testing.assert_close(module(x), theirs(x), rtol={torch.float32: 1e-6, torch.bfloat16: 0}[dtype], atol=1e-6)


def test_a_fresh_norm_scales_by_one():
    x = torch.randn(3, 32)
    torch.testing.assert_close(GemmaRMSNorm(32)(x), torch.nn.functional.rms_norm(x, (32,), eps=1e-6))


def test_adds_the_residual_in_float32_and_normalises_the_unrounded_sum():
    module = norm(256, torch.bfloat16)
    x, residual = torch.randn(4, 256).bfloat16(), torch.randn(4, 256).bfloat16()
    out, total = module(x, residual)
    exact = x.double() + residual.double()
    normed = exact / (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + module.weight.double())
    assert torch.equal(total, exact.bfloat16())
    torch.testing.assert_close(out, normed.bfloat16(), rtol=2**-7, atol=0)


def test_keeps_float64():
    module, x = norm(40).double(), torch.randn(3, 40, dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + module.weight)
    torch.testing.assert_close(module(x), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("shape", [(3, 64), (5, 33), (2, 3, 128), (9, 5, 20), (1, 5000), (7,), (0, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernel(interpreted, shape, dtype):
    module, x, residual = norm(shape[-1], dtype), torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    (out, none), _ = interpreted("rms_norm.rms_norm", x, module.weight, 1e-6, None, True)
    assert none is None and out.is_contiguous()
    torch.testing.assert_close(out, module(x))
    (out, total), (_, _, _, overwritten, _) = interpreted("rms_norm.rms_norm", x, module.weight, 1e-6, residual, True)
    torch.testing.assert_close((out, total), module(x, residual))
    assert torch.equal(total, overwritten)
