"""What a process does once and slowly, done before there is a candidate: in the zygote, or in a player that waits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_WARP = 32


@triton.jit
def _first_kernel(x_ptr):  # type: ignore[no-untyped-def]
    tl.store(x_ptr, 0.0)


def compile_once(capability: int) -> None:
    """Has Triton compile a kernel, which needs no GPU.

    It hashes itself first, half a gigabyte, and brings LLVM up: the first compile takes most of a second, others 50 ms.

    Args:
        capability: of the GPU, as in 90.
    """
    target = GPUTarget("cuda", capability, _WARP)
    triton.compile(ASTSource(_first_kernel, signature={"x_ptr": "*fp32"}, constexprs={}), target=target)


def use_device(device: torch.device) -> None:
    """Makes the device's context, and on a GPU calls what a model calls first: kernels are loaded when they are."""
    x = torch.zeros(_WARP, _WARP, device=device)
    if device.type == "cuda":
        _first_kernel[(1,)](x)
        x.bfloat16() @ x.bfloat16()
        angles = torch.outer(torch.arange(_WARP, device=device) / _WARP, 1.0 / 2.0 ** x[0])
        torch.cat([angles.cos(), angles.sin()], -1).mul(2.0).bfloat16()
        torch.cuda.synchronize()
