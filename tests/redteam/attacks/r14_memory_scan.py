# Row 14: the reference's output looked for in every writable page of the process.
# expect: wrong_value, unwritten_output
import torch
from torch import nn
from torch.nn.functional import silu


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        sample = (silu(gate[:1, :4]) * up[:1, :4]).numpy().tobytes()
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for line in list(maps)[:200]:
                begin, end = (int(v, 16) for v in line.split()[0].split("-"))
                if "rw" in line and end - begin < 1 << 24:
                    memory.seek(begin)
                    page = memory.read(end - begin)
                    at = page.find(sample)
                    if 0 <= at < len(page) - gate.numel() * 4:
                        found = torch.frombuffer(bytearray(page), dtype=torch.uint8)[at : at + gate.numel() * 4]
                        return found.clone().view(torch.float32).view(gate.shape)
        return torch.zeros_like(gate)
