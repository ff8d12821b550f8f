"""The GPU that candidates are given is the one that the evaluator was shown."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

_JUDGE = """
from pathlib import Path
import fastkernels_gym as fk
from fastkernels_gym.tasks.baseline.L1 import silu_and_mul
source = Path(silu_and_mul.__file__).read_text()
with fk.Evaluator("cuda") as evaluator:
    print(evaluator.evaluate("L1/silu_and_mul@llama-3.2-1b", source, measure="op", budget_s=1).verdict)
"""


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_an_evaluator_that_is_shown_another_gpu_judges_on_it() -> None:
    last = str(torch.cuda.device_count() - 1)
    done = subprocess.run(
        [sys.executable, "-c", _JUDGE],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": last},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["ok"], done.stderr[-2000:]
