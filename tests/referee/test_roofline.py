"""The bound counts what a call must move: no more, or honest kernels would seem too fast."""

import random

import torch

from fastkernels_gym.catalog import load_model_config
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


def test_experts_that_no_token_chose_need_not_be_read() -> None:
    model = load_model_config("tiny-mixtral")
    subject = Subject(model, torch.device("cpu"), 1, torch.Generator().manual_seed(0))
    scene = Scene(subject, "decode", [1], [3], random.Random(0))
    ceilings = Ceilings(bytes_per_s=1.0, flops_per_s=1e30)
    experts = subject.module.get_submodule("model.layers.0.block_sparse_moe.experts")
    weights, hidden = experts.w13_weight.nbytes + experts.w2_weight.nbytes, model.config.hidden_size * 4
    assert model.config.num_experts_per_tok < model.config.num_local_experts
    with torch.no_grad():
        (call,) = scene.record({"model.layers.0.block_sparse_moe.experts": 1})
        bound = least_seconds(scene, call, ceilings)
    share = model.config.num_experts_per_tok / model.config.num_local_experts
    assert bound == share * weights + 2 * hidden + model.config.num_local_experts * 4
