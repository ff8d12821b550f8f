import subprocess
import sys

import pytest
import torch

from fastkernels_gym.tasks.baseline.L1.allreduce import AllReduce
from fastkernels_gym.tasks.baseline.L1.embedding import Embedding
from fastkernels_gym.tasks.baseline.L1.linear import Linear


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (7,), (0, 7)])
def test_linear(shape, dtype):
    x, weight, bias = (torch.randn(s, dtype=dtype) for s in (shape, (4, 7), (4,)))
    wanted = torch.einsum("...i,oi->...o", x, weight)
    torch.testing.assert_close(Linear()(x, weight), wanted)
    torch.testing.assert_close(Linear()(x, weight, bias), wanted + bias)


@pytest.mark.parametrize("ids", [[], [0], [3, 3, 9, 0]])
def test_embedding(ids):
    weight = torch.randn(10, 6, dtype=torch.float64)
    wanted = torch.stack([weight[i] for i in ids]) if ids else torch.empty(0, 6, dtype=torch.float64)
    assert torch.equal(Embedding()(torch.tensor(ids, dtype=torch.int64), weight), wanted)


def test_allreduce_alone():
    x = torch.randn(3)
    assert AllReduce()(x) is x


def test_allreduce_over_two_ranks(tmp_path):
    program = f"""
import os, sys
import torch, torch.distributed as dist
from fastkernels_gym.tasks.baseline.L1.allreduce import AllReduce
from fastkernels_gym.tasks.baseline.parallel_state import get_tp_group, get_tp_rank, get_tp_size
child = os.fork()
rank = int(child != 0)
dist.init_process_group("gloo", init_method="file://{tmp_path}/store", rank=rank, world_size=2)
assert (get_tp_rank(), get_tp_size()) == (rank, 2) and get_tp_group() is not None
out = AllReduce()(torch.arange(3.0) + 10 * rank)
assert out.tolist() == [10.0, 12.0, 14.0], out
dist.destroy_process_group()
if not child:
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
