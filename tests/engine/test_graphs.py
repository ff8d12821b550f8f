"""Passes by graphs compute what eager passes compute."""

import math

import pytest
import torch

from fastkernels_gym.engine import load_model
from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, linear_block_table
from fastkernels_gym.engine.graphs import StepGraphs, padded_prompts, write_prompts
from fastkernels_gym.engine.step import forward_hidden, forward_step

PAGE, MOST = 4, 32


def drawn_prompts(lengths: list[int], device: str = "cpu") -> Batch:
    table = linear_block_table(len(lengths), MOST, PAGE)
    ids = torch.randint(150, (sum(lengths),))
    return Batch.build(lengths, [0] * len(lengths), table, PAGE, torch.device(device), ids)


def next_tokens(lengths: list[int], device: str) -> Batch:
    """A decode step after those prompts, where all have room for a token more."""
    before = [min(length, MOST - 1) for length in lengths]
    table = linear_block_table(len(lengths), MOST, PAGE)
    ids = torch.randint(150, (len(lengths),))
    return Batch.build([1] * len(lengths), before, table, PAGE, torch.device(device), ids)


def new_caches(engine):
    pages = 8 * MOST // PAGE
    return allocate_kv_caches(engine.config, pages, PAGE, engine.device, engine.dtype)


@pytest.mark.parametrize("family", ["llama", "gemma3", "mixtral", "qwen3_moe"])
@torch.no_grad()
def test_padding_neither_reaches_a_prompt_nor_is_stored(family, request) -> None:
    engine = load_model(request.getfixturevalue(family).folder, "cpu", "float64", "checkpoint")
    held = padded_prompts(drawn_prompts([5, 30, 1]), rows=4, tokens=48)
    for lengths in ([5, 30, 1], [32], [1, 1, 9, 2], [20, 20, 8]):
        batch, padded, alone = drawn_prompts(lengths), new_caches(engine), new_caches(engine)
        write_prompts(held, batch)
        states = forward_hidden(engine.model, held, padded)[: sum(lengths)]
        torch.testing.assert_close(states, forward_hidden(engine.model, batch, alone))
        torch.testing.assert_close(padded, alone)


@pytest.mark.gpu
@pytest.mark.parametrize("gain", [math.inf, 0.0], ids=["graphs", "graphs that are not faster"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3", "qwen2", "qwen3", "mixtral", "qwen3_moe"])
@torch.no_grad()
def test_a_gpus_passes_are_alike_by_graphs_and_eagerly(family, gain, request, monkeypatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("fastkernels_gym.engine.graphs._GAIN", gain)
    # In float16 experts have few near ties.
    engine = load_model(request.getfixturevalue(family).folder, "cuda", "float16", "checkpoint")
    ours, eager = new_caches(engine), new_caches(engine)
    graphs = StepGraphs(engine.model, ours, PAGE)
    for lengths in ([32], [20], [17], [5, 20, 7], [5, 19, 7], [1, 30], [1, 1]):
        batch = drawn_prompts(lengths, "cuda")
        expected = forward_step(engine.model, batch, eager)
        for _ in range(2):
            assert off(graphs.run(batch), expected) < 0.03, lengths
        step = next_tokens(lengths, "cuda")
        assert off(graphs.run(step), forward_step(engine.model, step, eager)) < 0.03, lengths
        slots = torch.cat([batch.metadata.slot_mapping, step.metadata.slot_mapping])
        for (k, v), (wanted_k, wanted_v) in zip(ours, eager, strict=True):
            assert off(k.flatten(0, 1)[slots], wanted_k.flatten(0, 1)[slots]) < 0.03, lengths
            assert off(v.flatten(0, 1)[slots], wanted_v.flatten(0, 1)[slots]) < 0.03, lengths


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found - wanted).float().norm() / wanted.float().norm()).item()
