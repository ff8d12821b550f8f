import math

import pytest
import torch

from fastkernels_gym.tasks.baseline.L1.gelu_and_mul import GeluAndMul

SHAPES = [(3, 64), (1, 2), (5, 66), (2, 3, 34), (1, 4100), (8,), (0, 16)]
APPROXIMATIONS = pytest.mark.parametrize("approximate", ["none", "tanh"])


@APPROXIMATIONS
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula(shape, approximate):
    x = torch.randn(shape, dtype=torch.float64)
    gate, up = x[..., : shape[-1] // 2], x[..., shape[-1] // 2 :]
    if approximate == "tanh":
        share = 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    else:
        share = 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    expected, operator = gate * share * up, GeluAndMul(approximate)
    torch.testing.assert_close(operator(x), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(operator(x.float()), expected.float())
    torch.testing.assert_close(operator(x.bfloat16()), expected.bfloat16(), rtol=0.03, atol=0.01)


@APPROXIMATIONS
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernel(interpreted, shape, dtype, approximate):
    x = (4 * torch.randn(shape)).to(dtype)
    out, _ = interpreted("gelu_and_mul.gelu_and_mul", x, approximate)
    assert out.is_contiguous()
    torch.testing.assert_close(
        out, GeluAndMul(approximate)(x), rtol={torch.float32: 1e-4, torch.float16: 1e-3}[dtype], atol=1e-5
    )


@APPROXIMATIONS
def test_kernel_keeps_extremes(interpreted, approximate):
    x = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4, 1.0, 2.0, 3.0, 4.0, 5.0]])
    torch.testing.assert_close(interpreted("gelu_and_mul.gelu_and_mul", x, approximate)[0], GeluAndMul(approximate)(x))


def test_kernel_reads_views(interpreted):
    for x in (torch.randn(6, 100)[::2, 7:77], torch.randn(4, 3, 50)[:, 1:, :20], torch.randn(5, 40)[:, ::2]):
        out, _ = interpreted("gelu_and_mul.gelu_and_mul", x, "tanh")
        torch.testing.assert_close(out, GeluAndMul("tanh")(x))


def test_other_approximations_are_refused():
    with pytest.raises(ValueError, match="approximate='sigmoid' is neither"):
        GeluAndMul("sigmoid")
