# Honest: CUDA C++ compiled by load_inline, without torch's headers in the CUDA source, as the prompt advises.
# device: cuda
# compiles: nvcc, and g++ reads torch's header
import torch
from torch import nn
from torch.utils.cpp_extension import load_inline

CUDA = r"""
#include <cuda_bf16.h>
__global__ void gated(const __nv_bfloat16* x, __nv_bfloat16* out, int size) {
  const size_t row = blockIdx.x;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const float gate = __bfloat162float(x[row * 2 * size + i]), up = __bfloat162float(x[row * 2 * size + size + i]);
    out[row * size + i] = __float2bfloat16(gate / (1.0f + __expf(-gate)) * up);
  }
}
void launch(const void* x, void* out, int rows, int size, void* stream) {
  gated<<<rows, 256, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const __nv_bfloat16*>(x), static_cast<__nv_bfloat16*>(out), size);
}
"""
CPP = r"""
#include <torch/extension.h>
void launch(const void* x, void* out, int rows, int size, void* stream);
void run(torch::Tensor x, torch::Tensor out, int64_t stream) {
  const int size = out.size(-1);
  launch(x.data_ptr(), out.data_ptr(), out.numel() / size, size, reinterpret_cast<void*>(stream));
}
"""
module = load_inline("gated_plain", CPP, CUDA, functions=["run"], no_implicit_headers=True)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        x = x.contiguous()
        out = torch.empty(*x.shape[:-1], x.shape[-1] // 2, dtype=x.dtype, device=x.device)
        module.run(x, out, torch.cuda.current_stream().cuda_stream)
        return out
