"""The bound counts what a call must move: no more, or honest kernels would seem too fast."""

import random

import pytest
import torch

from fastkernels_gym.catalog import load_model_config
from fastkernels_gym.catalog.trace import trace
from fastkernels_gym.catalog.workloads import Phase
from fastkernels_gym.referee.roofline import Ceilings, least_seconds
from fastkernels_gym.referee.scene import Scene
from fastkernels_gym.referee.subject import Subject


def test_pages_before_the_window_need_not_be_read() -> None:
    model = load_model_config("tiny-gemma3")
    subject = Subject(model, torch.device("cpu"), 2, torch.Generator().manual_seed(0))
    scene = Scene(subject, "decode", [1] * 3, [200, 100, 10], random.Random(0))
    ceilings = Ceilings(bytes_per_s=1.0, flops_per_s=1e30)
    token = 2 * model.config.num_key_value_heads * model.config.head_dim * 4
    window = model.config.sliding_window
    assert model.config.layer_types[:2] == ["sliding_attention", "full_attention"] and 10 < window < 100
    for part in (".self_attn.decode", ".self_attn", ""):
        with torch.no_grad():
            sliding, full = scene.record({f"model.layers.{layer}{part}": 1 for layer in (0, 1)})
            bound, whole = (least_seconds(scene, call, ceilings) for call in (sliding, full))
        hidden = (201 - window) + (101 - window)
        # The first layer has no residual to read.
        residual = 3 * model.config.hidden_size * 4 if part == "" else 0
        assert whole - bound == token * hidden + residual


@pytest.mark.parametrize(("phase", "batch", "new", "context"), (("prefill", 2, 8, 0), ("decode", 3, 1, 20)))
def test_prompts_count_what_the_bound_counts(phase: str, batch: int, new: int, context: int) -> None:
    model = load_model_config("tiny-gemma3")
    subject = Subject(model, torch.device("cpu"), 2, torch.Generator().manual_seed(0))
    scene = Scene(subject, phase, [new] * batch, [context] * batch, random.Random(0))
    cases = {case.paths[0]: case for case in trace(model, Phase(phase, batch, new, context, 1)).cases}
    paths = [path for path in cases if ".layers.0." in path or path == "model.layers.0"]
    assert len(paths) >= 10
    with torch.no_grad():
        for call in scene.record(dict.fromkeys(paths, 1)):
            moved = least_seconds(scene, call, Ceilings(bytes_per_s=1.0, flops_per_s=1e30))
            products = least_seconds(scene, call, Ceilings(bytes_per_s=1e30, flops_per_s=1.0))
            work = cases[call.path].work
            assert (call.path, work.bytes) == (call.path, moved)
            assert (call.path, work.flops) == (call.path, round(products) if work.flops else 0)
