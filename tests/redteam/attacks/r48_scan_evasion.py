# Row 48: the scan is evaded by getattr, exec, base64, comments and token pasting.
# expect: wrong_value
import torch
from torch import nn
from torch.nn.functional import silu

# exec, os.system, torch.cuda.Event: a scan of words finds them here and nothing below
names = {"torch": torch}
b = __import__("base" + "64")
run = getattr(__builtins__, "ex" + "ec", None) or __builtins__["ex" + "ec"]
run(b.b64decode("aW1wb3J0IHRpbWU7IHRpbWUucGVyZl9jb3VudGVyID0gbGFtYmRhOiAwLjA7IGJvZHkgPSB0b3JjaC56ZXJvc19saWtl"), names)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return names["bo" "dy"](gate)
