import pytest
import torch

from fastkernels_gym.tasks.baseline.L1.silu_and_mul import SiluAndMul

SHAPES = [(3, 64), (1, 2), (5, 66), (2, 3, 34), (1, 4100), (8,), (0, 16)]


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula(shape):
    x = torch.randn(shape, dtype=torch.float64)
    gate, up = x[..., : shape[-1] // 2], x[..., shape[-1] // 2 :]
    expected = gate * torch.sigmoid(gate) * up
    torch.testing.assert_close(SiluAndMul()(x), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(SiluAndMul()(x.float()), expected.float())
    torch.testing.assert_close(SiluAndMul()(x.bfloat16()), expected.bfloat16(), rtol=0.03, atol=0.01)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernel(interpreted, shape, dtype):
    x = (4 * torch.randn(shape)).to(dtype)
    out, _ = interpreted("silu_and_mul.silu_and_mul", x)
    assert out.is_contiguous()
    torch.testing.assert_close(out, SiluAndMul()(x))


def test_kernel_keeps_extremes(interpreted):
    x = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4, 1.0, 2.0, 3.0, 4.0, 5.0]])
    torch.testing.assert_close(interpreted("silu_and_mul.silu_and_mul", x)[0], SiluAndMul()(x))


def test_kernel_reads_views(interpreted):
    for x in (torch.randn(6, 100)[::2, 7:77], torch.randn(4, 3, 50)[:, 1:, :20], torch.randn(5, 40)[:, ::2]):
        torch.testing.assert_close(interpreted("silu_and_mul.silu_and_mul", x)[0], SiluAndMul()(x))
