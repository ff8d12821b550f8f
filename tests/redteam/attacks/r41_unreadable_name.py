# Row 41: a process whose name is no text, which whoever watches it has to read, and more of them than it may have.
# expect: out_of_memory
import os
import time

from torch import nn

with open("/proc/self/comm", "wb") as name:
    name.write(b"\xff\xfe")
time.sleep(0.5)
for _ in range(300):
    if os.fork() == 0:
        time.sleep(1e6)


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()
