# Row 42: a compiler that never ends.
# hurried: yes
# expect: compile_timeout
import subprocess

import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        with open("endless.cpp", "w") as file:
            file.write("template <int N> struct F { enum { v = F<N - 1>::v + F<N - 2>::v + F<N - 3>::v + sizeof(F<N-1>) }; };")
            file.write("constexpr long f(long n) { return n < 2 ? n : f(n - 1) + f(n - 2); } constexpr long x = f(90); int main() {}")
        subprocess.run(["g++", "-fconstexpr-ops-limit=9223372036854775807", "-c", "endless.cpp"], check=True)
        return silu(gate) * up
