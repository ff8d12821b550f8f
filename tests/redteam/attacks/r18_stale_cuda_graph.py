# Row 18: a CUDA graph replayed with the inputs of its capture.
# device: cuda
# expect: wrong_value, runtime_error, device_fault
import torch
from torch import nn
from torch.nn.functional import silu

graphs = {}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        if x.shape not in graphs:
            graph, fixed = torch.cuda.CUDAGraph(), x.clone()
            with torch.cuda.graph(graph):
                g, u = fixed.chunk(2, dim=-1)
                out = silu(g) * u
            graphs[x.shape] = graph, out
        graph, out = graphs[x.shape]
        graph.replay()
        return out
