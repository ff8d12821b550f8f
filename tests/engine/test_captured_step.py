"""A pass as a CUDA graph: what it reads and writes is its own, whatever becomes of other graphs and caches."""

import pytest
import torch
from torch import nn

from fastkernels_gym.engine.batch import Batch, linear_block_table
from fastkernels_gym.engine.step import CapturedStep, forward_step
from fastkernels_gym.tasks.baseline.forward_context import get_forward_context

ROWS, WIDE, NARROW = 32, 16384, 64


class SplitProducts(nn.Module):
    """Products over so many columns for so few results that cuBLAS adds them up in its workspace."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(ROWS, WIDE, device=device, dtype=torch.bfloat16))
        self.narrowing = nn.Parameter(torch.randn(NARROW, WIDE, device=device, dtype=torch.bfloat16))

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        keys, values = get_forward_context().kv_caches[0]
        values.copy_(keys)
        return self.embedding[input_ids] + values

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.narrowing)


def one_step(device: torch.device) -> tuple[nn.Module, Batch, list[tuple[torch.Tensor, torch.Tensor]]]:
    table = linear_block_table(ROWS, 1, 16, list(range(ROWS)))
    batch = Batch.build([1] * ROWS, [0] * ROWS, table, 16, device, torch.arange(ROWS))
    keys = torch.randn(ROWS, WIDE, device=device, dtype=torch.bfloat16)
    return SplitProducts(device), batch, [(keys, torch.empty_like(keys))]


@pytest.mark.gpu
@torch.no_grad()
def test_a_step_neither_writes_to_others_memory_nor_reads_it() -> None:
    device = torch.device("cuda")
    model, batch, caches = one_step(device)
    expected = forward_step(model, batch, caches)
    step = CapturedStep(model, batch, caches)
    del model, caches
    for _ in range(40):  # streams come out of a pool of 32
        CapturedStep(*one_step(device))
    torch.cuda.empty_cache()
    given_away = [torch.full((1 << 20,), float("nan"), device=device) for _ in range(64)]
    torch.testing.assert_close(step.replay(), expected)
    assert all(memory.isnan().all() for memory in given_away)
