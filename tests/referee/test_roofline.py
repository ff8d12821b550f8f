"""The bound counts what a call must move: no more, or honest kernels would seem too fast."""

import random
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.catalog import load_model_config
from fastkernels_gym.catalog.trace import trace
from fastkernels_gym.catalog.work import Work
from fastkernels_gym.catalog.workloads import Phase
from fastkernels_gym.referee.calibration import Tolerance
from fastkernels_gym.referee.ceilings import Ceilings
from fastkernels_gym.referee.clock import Burst, CallTime, Duel, call_time
from fastkernels_gym.referee.consistency import beyond_roofline
from fastkernels_gym.referee.device_state import identity
from fastkernels_gym.referee.roofline import work_of, work_of_pass
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
            bound, whole = (ceilings.least_seconds(work_of(scene, call)) for call in (sliding, full))
        hidden = (201 - window) + (101 - window)
        # The first layer has no residual to read.
        residual = 3 * model.config.hidden_size * 4 if part == "" else 0
        assert whole - bound == token * hidden + residual


def test_experts_that_no_token_chose_need_not_be_read() -> None:
    model = load_model_config("tiny-mixtral")
    subject = Subject(model, torch.device("cpu"), 1, torch.Generator().manual_seed(0))
    scene = Scene(subject, "decode", [1], [3], random.Random(0))
    experts = subject.module.get_submodule("model.layers.0.block_sparse_moe.experts")
    weights, hidden = experts.w13_weight.nbytes + experts.w2_weight.nbytes, model.config.hidden_size * 4
    assert model.config.num_experts_per_tok < model.config.num_local_experts
    with torch.no_grad():
        (call,) = scene.record({"model.layers.0.block_sparse_moe.experts": 1})
        bound = work_of(scene, call).bytes
    share = model.config.num_experts_per_tok / model.config.num_local_experts
    assert bound == share * weights + 2 * hidden + model.config.num_local_experts * 4


def test_a_pass_reads_its_layers_and_its_head_and_of_experts_perhaps_none() -> None:
    model = load_model_config("tiny-mixtral")
    config = model.config
    subject = Subject(model, torch.device("cpu"), 2, torch.Generator().manual_seed(0))
    scene = Scene(subject, "prefill", [5, 3], [0, 0], random.Random(0))
    width, heads = config.hidden_size, config.num_attention_heads + 2 * config.num_key_value_heads
    head_size = getattr(config, "head_dim", None) or width // config.num_attention_heads
    attention = width * head_size * (heads + config.num_attention_heads)
    layer, head = attention + width * config.num_local_experts, width * config.vocab_size
    work = work_of_pass(scene)
    assert work.bytes == 4 * (2 * (layer + 2 * width) + head)
    assert work.flops == 2 * (8 * 2 * layer + 2 * head)


def test_ceilings_are_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = torch.device("cpu")
    known = identity(device)
    found = Ceilings.of(device, torch.float32, known)
    begin = time.monotonic()
    assert Ceilings.of(device, torch.float32, known) == found
    assert time.monotonic() - begin < 0.2
    # A table of a megabyte that is read in a nanosecond.
    assert found.impossible_below(Work(1 << 20, 0)) > 1e-9
    for work in (Work(1 << 20, 0), Work(1 << 30, 0), Work(0, 1 << 30)):
        assert 0 < found.impossible_below(work) < found.least_seconds(work)


def test_what_fits_the_cache_may_be_as_fast_as_the_cache() -> None:
    found = Ceilings(1e12, 1e15, cache_bytes_per_s=1e13, cache_bytes=1 << 20, margin=0.8)
    assert found.impossible_below(Work(1 << 20, 0)) == pytest.approx(0.8 * (1 << 20) / 1e13)
    assert found.impossible_below(Work(1 << 21, 0)) == pytest.approx(0.8 * (1 << 21) / 1e12)
    assert found.impossible_below(Work(1 << 20, 10**15)) == pytest.approx(0.8)


@given(st.integers(0, 2**32), st.floats(1.0, 5.0), st.sampled_from([0.002, 0.01, 0.03]))
def test_what_takes_as_long_as_the_roofline_is_no_forgery(seed: int, above: float, noise: float) -> None:
    rng = random.Random(seed)
    bound = 10e-6
    # A kernel at the ceiling itself lies above what is impossible by the margin.
    found = timed(rng, 50e-6, bound / 0.85 * above, noise)
    assert not beyond_roofline(found, bound, Tolerance(0.005, 0.01))


def test_what_takes_no_time_is_quarantined() -> None:
    rng = random.Random(0)
    found = timed(rng, 50e-6, 1e-6, 0.002)
    assert beyond_roofline(found, 10e-6, Tolerance(0.005, 0.01))
    # Where the baseline beats the bound, the bound is wrong.
    assert not beyond_roofline(timed(rng, 8e-6, 1e-6, 0.002), 10e-6, Tolerance(0.005, 0.01))


def timed(rng: random.Random, baseline_s: float, candidate_s: float, noise: float) -> CallTime:
    def burst(call_s: float) -> Burst:
        return lambda n: (400e-6 + n * call_s) * (1 + noise * rng.gauss(0, 1))

    duel = Duel(burst(baseline_s), burst(candidate_s), 200, rng)
    for _ in range(12):
        duel.block()
    return call_time(duel.samples)


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
            bound, work = work_of(scene, call), cases[call.path].work
            assert (call.path, work.bytes, work.flops) == (call.path, bound.bytes, bound.flops)
