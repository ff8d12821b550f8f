import math
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


@pytest.mark.parametrize(
    "shape", [(1, 512), (1, 1, 1024), (2, 512), (17, 512), (32, 1536), (33, 512), (0, 512), (3, 100)]
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_kernels(interpreted, shape, with_bias):
    # The interpreter multiplies matrices of bfloat16 as integers.
    dtype = torch.float16 if math.prod(shape[:-1]) > 1 else torch.bfloat16
    x, weight, bias = torch.randn(shape).to(dtype), torch.randn(64, shape[-1]).to(dtype), torch.randn(64).to(dtype)
    out, _ = interpreted("linear.linear", x, weight, bias if with_bias else None)
    wanted = torch.nn.functional.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), wanted, rtol=1e-2, atol=0.2)
