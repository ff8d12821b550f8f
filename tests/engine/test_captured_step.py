"""A decode step as a CUDA graph: its memory is its own, whatever becomes of other graphs."""

import pytest
import torch
from torch import nn

from fastkernels_gym.engine.batch import Batch, linear_block_table
from fastkernels_gym.engine.step import CapturedStep

pytestmark = pytest.mark.gpu
ROWS, WIDE, NARROW = 32, 16384, 64


class SplitProducts(nn.Module):
    """Products over so many columns for so few results that cuBLAS adds them up in its workspace."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(ROWS, WIDE, device="cuda", dtype=torch.bfloat16))
        self.narrowing = nn.Parameter(torch.randn(NARROW, WIDE, device="cuda", dtype=torch.bfloat16))

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.embedding[input_ids]

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.narrowing)


@torch.no_grad()
def test_a_step_neither_writes_to_others_memory_nor_reads_it() -> None:
    device = torch.device("cuda")
    table = linear_block_table(ROWS, 1, 16, list(range(ROWS)))
    batch = Batch.build([1] * ROWS, [0] * ROWS, table, 16, device, torch.arange(ROWS))
    model = SplitProducts()
    step = CapturedStep(model, batch, [])
    expected = step.replay().clone()
    for _ in range(40):  # streams come out of a pool of 32
        CapturedStep(model, batch, [])
    given_away = [torch.full((1 << 20,), float("nan"), device=device) for _ in range(64)]
    assert torch.equal(step.replay(), expected)
    assert all(memory.isnan().all() for memory in given_away)
