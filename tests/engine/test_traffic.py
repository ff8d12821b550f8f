"""Requests that come, stop and are aborted at random, among scarce pages, are given what each would be given alone."""

import random

import pytest
from traffic import alone, busy_engine, differs, drawn_requests, lone_engine, served

from fastkernels_gym.engine import load_model


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
def test_everybody_is_given_what_they_would_be_given_alone(family, request) -> None:
    module = load_model(request.getfixturevalue(family).folder, "cpu", "float64", "checkpoint").model
    engine, lone = busy_engine(module), lone_engine(module)
    requests = drawn_requests(random.Random(3), 20, 150, longest_answer=16)
    answers, counts = served(engine, requests)
    assert not [answer for answer in answers if differs(answer, alone(lone, answer.request))]
    assert min(counts["preempted"], counts["chunks"], sum(answer.aborted for answer in answers)) > 0
    assert engine.blocks.num_free == engine.blocks.num_blocks
