import pytest
import torch

from fastkernels_gym.tasks.baseline.L1.rms_norm import RMSNorm


def norm(size: int, dtype: torch.dtype = torch.float32, **options) -> RMSNorm:
    module = RMSNorm(size, dtype=dtype, **options)
    module.weight.data.copy_(1 + 0.1 * torch.randn(size))
    return module


@pytest.mark.parametrize("shape", [(3, 64), (1, 1), (2, 5, 33), (7,), (0, 16)])
def test_equals_torch(shape):
    module, x = norm(shape[-1], eps=1e-5), torch.randn(shape)
    expected = torch.nn.functional.rms_norm(x, shape[-1:], module.weight, 1e-5)
    torch.testing.assert_close(module(x), expected)


def test_adds_the_residual_first():
    module, x, residual = norm(48), torch.randn(5, 48), torch.randn(5, 48)
    out, total = module(x, residual)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(out, module(x + residual))


def test_normalises_the_unrounded_sum_and_rounds_before_the_weight():
    module = norm(256, torch.bfloat16)
    x, residual = torch.randn(4, 256).bfloat16(), torch.randn(4, 256).bfloat16()
    out, total = module(x, residual)
    exact = x.double() + residual.double()
    normed = exact / (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.equal(total, exact.bfloat16())
    expected = normed.bfloat16() * module.weight
    # Some element may lie where float32 and float64 round apart; rounded elsewhere, one in six or more would differ.
    assert (out == expected).float().mean() > 0.99
    torch.testing.assert_close(out, expected, rtol=2**-6, atol=0)


def test_keeps_float64():
    module, x = norm(40).double(), torch.randn(3, 40, dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * module.weight
    torch.testing.assert_close(module(x), expected, rtol=1e-14, atol=1e-14)


def test_without_weight_has_no_state():
    module, x = RMSNorm(32, has_weight=False), torch.randn(2, 32)
    assert not module.state_dict()
    torch.testing.assert_close(module(x), torch.nn.functional.rms_norm(x, (32,), eps=1e-6))


def test_rejects_a_partial_variance():
    with pytest.raises(ValueError, match="var_hidden_size"):
        RMSNorm(32, var_hidden_size=16)


@pytest.mark.parametrize(
    "shape", [(3, 64), (1, 1), (5, 33), (2, 3, 128), (9, 5, 20), (1, 5000), (2, 3, 4, 16), (7,), (0, 16)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernel(interpreted, shape, dtype):
    module, x, residual = norm(shape[-1], dtype), torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    (out, none), _ = interpreted("rms_norm.rms_norm", x, module.weight, 1e-6)
    assert none is None and out.is_contiguous()
    tolerance = {"rtol": {torch.float32: 1e-5, torch.float16: 2**-9}[dtype], "atol": 1e-5}  # it rounds twice
    torch.testing.assert_close(out, module(x), **tolerance)
    (out, total), (_, _, _, overwritten) = interpreted("rms_norm.rms_norm", x, module.weight, 1e-6, residual)
    torch.testing.assert_close((out, total), module(x, residual), **tolerance)
    assert torch.equal(total, overwritten)


@pytest.mark.parametrize("view", ["heads", "rows", "columns"])
def test_kernel_reads_views(interpreted, view):
    packed = torch.randn(6, 200)
    x = {
        "heads": packed[:, 20:180].unflatten(-1, (5, 32)),
        "rows": packed[::2, 10:42],
        "columns": packed[:, ::2][:, :32],
    }[view]
    module, residual = norm(32), torch.randn(*x.shape[:-1], 64)[..., ::2]
    (out, total), (after, *_) = interpreted("rms_norm.rms_norm", x, module.weight, 1e-6, residual)
    torch.testing.assert_close((out, total), module(x, residual))
    assert torch.equal(after, x)
