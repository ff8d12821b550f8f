"""How deep a model is judged at: what the device's memory holds."""

import pytest

from fastkernels_gym.catalog import load_task
from fastkernels_gym.referee.session import affordable_layers, parameter_counts

_GIB = 1 << 30


def test_a_model_that_fits_is_judged_at_full_depth():
    task = load_task("L3/llama_decoder@llama-3.1-8b")
    assert affordable_layers(task.model, task.workload, 78 * _GIB) == 32


@pytest.mark.parametrize("gib", [40, 78, 138])
@pytest.mark.parametrize("name", ["L3/mixtral_decoder@mixtral-8x7b", "L3/qwen3_moe_decoder@qwen3-30b-a3b"])
def test_beside_both_copies_of_the_weights_a_layer_in_float64_finds_room(name, gib):
    task = load_task(name)
    outside, layer = parameter_counts(task.model)
    layers = affordable_layers(task.model, task.workload, gib * _GIB)
    copies = 2 * task.model.dtype.itemsize * (outside + layers * layer)
    assert 1 < layers < task.model.config.num_hidden_layers
    assert copies + 8 * layer < 0.85 * gib * _GIB


def test_what_fits_nothing_is_tried_with_one_layer():
    task = load_task("L3/llama_decoder@llama-3.1-70b")
    assert affordable_layers(task.model, task.workload, _GIB) == 1
