# Honest: a CUDA graph of its own that copies its inputs in and its outputs out.
# device: cuda
import torch
from torch import nn


def gated(x):
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


graphs = {}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        if torch.cuda.is_current_stream_capturing():
            return gated(x)
        if x.shape not in graphs:
            fixed = x.clone()
            gated(fixed)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = gated(fixed)
            graphs[x.shape] = graph, fixed, out
        graph, fixed, out = graphs[x.shape]
        fixed.copy_(x)
        graph.replay()
        return out.clone()
