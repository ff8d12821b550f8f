"""Two ranks, real processes that exchange what they computed, compute what one does."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = str(Path(__file__).with_name("two_ranks.py"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """What one rank alone computes, and each of two."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = [(0, 1), (0, 2), (1, 2)]
    commands = [[sys.executable, SCRIPT, str(rank), str(ranks), str(folder)] for rank, ranks in runs]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    alone, first, second = (torch.load(folder / f"{rank}of{ranks}.pt") for rank, ranks in runs)
    return alone, first, second


@pytest.mark.parametrize("name", ["column", "row", "embedding", "head"])
def test_layers(results, name) -> None:
    alone, first, second = (run["layers"][name] for run in results)
    torch.testing.assert_close(first, alone)
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["llama", "qwen2, one KV head", "qwen3"])
def test_models(results, name) -> None:
    for alone, first, second in zip(*(run["models"][name] for run in results), strict=True):
        assert alone.std() > 0.3
        torch.testing.assert_close(first, alone, atol=1e-4, rtol=1e-4)
        assert torch.equal(first, second)
