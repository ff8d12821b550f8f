"""The launcher of the baseline's kernels: it compiles anew where Triton does, and launches what it compiled."""

import pytest
import torch
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st
from triton.backends.compiler import BaseBackend
from triton.runtime.jit import native_specialize_impl

from fastkernels_gym.tasks.baseline.L1.rms_norm import rms_norm
from fastkernels_gym.tasks.baseline.launch import Kernel, jit


def _fill_kernel(out_ptr, value, size, BLOCK: tl.constexpr):
    lanes = tl.arange(0, BLOCK)
    tl.store(out_ptr + lanes, value, mask=lanes < size)


ANY = torch.zeros(64, dtype=torch.uint8)
POINTERS = st.builds(
    lambda dtype, offset: ANY[offset : offset + 16].clone().view(dtype) if offset % 2 else ANY[offset:].view(dtype),
    st.sampled_from([torch.uint8, torch.float32, torch.bfloat16]),
    st.sampled_from([0, 1, 4, 8, 16, 32]),
)
EDGES = [edge + by for edge in (0, 16, 2**31, -(2**31), 2**32, 2**63 - 1) for by in (-1, 0, 1)]
NUMBERS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.sampled_from(EDGES), st.floats(), st.booleans(), st.none())


@given(st.tuples(POINTERS, NUMBERS, NUMBERS), st.tuples(POINTERS, NUMBERS, NUMBERS))
def test_arguments_that_triton_tells_apart_are_told_apart(first, second):
    kernel = Kernel(_fill_kernel)
    ours = [kernel.specialization((*args, 16)) for args in (first, second)]
    theirs = [[native_specialize_impl(BaseBackend, arg, False, True, True) for arg in args] for args in (first, second)]
    assert ours[0] != ours[1] or theirs[0] == theirs[1]


def test_constants_are_told_apart():
    kernel = Kernel(_fill_kernel)
    assert kernel.specialization((ANY, 2.0, 3, 16)) != kernel.specialization((ANY, 2.0, 3, 32))


@pytest.mark.gpu
def test_a_kernel_is_compiled_once_for_what_is_alike_and_right_for_what_is_not():
    fill, memory = jit(_fill_kernel), torch.zeros(64, device="cuda")
    for out in (memory, memory[16:], memory[1:]):
        for size in (1, 7, 8, 16):
            for value in (2, 3.5):
                memory.zero_()
                fill[(1,)](out, value, size, 16)
                assert out[:16].tolist() == [value] * size + [0.0] * (16 - size)
    assert len(fill._compiled) == 2 * 3 * 2


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_kernel_runs_on_the_gpu_that_is_current():
    for device in ("cuda:0", "cuda:1", "cuda:0"):
        with torch.cuda.device(device):
            x = torch.randn(4, 512, device=device)
            out, _ = rms_norm(x, torch.ones(512, device=device), 1e-6)
            assert torch.allclose(out, torch.nn.functional.rms_norm(x, (512,), eps=1e-6), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of inductor's own imports
def test_dynamo_takes_it_for_a_kernel_of_triton():
    def twice(x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, torch.ones(512, device="cuda"), 1e-6)[0] * 2

    x = torch.randn(4, 512, device="cuda")
    assert torch.allclose(torch.compile(twice, fullgraph=True)(x), twice(x), atol=1e-5)
