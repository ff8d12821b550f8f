import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastkernels_gym.catalog import Case, load_task
from fastkernels_gym.errors import UnsupportedModel


def _phase(cases: tuple[Case, ...], name: str) -> list[Case]:
    return [case for case in cases if case.phase == name]


def test_norms_of_the_full_model() -> None:
    prefill = _phase(load_task("L1/rms_norm@llama-3.1-8b").cases, "prefill")
    assert sum(case.count for case in prefill) == 65
    first, others = prefill
    assert [arg.name for arg in first.args] == ["x"]
    assert first.paths == ("model.layers.0.input_layernorm",)
    assert [(arg.name, arg.shape, arg.dtype, arg.stride) for arg in others.args] == [
        ("x", (2048, 4096), "bfloat16", (4096, 1)),
        ("residual", (2048, 4096), "bfloat16", (4096, 1)),
    ]
    assert (others.count, others.n) == (64, 32)
    assert others.paths[0] == "model.layers.0.post_attention_layernorm"
    assert others.paths[-1] == "model.norm"
    assert others.init["hidden_size"] == 4096


def test_every_call_has_a_path_that_leads_to_the_operator() -> None:
    task = load_task("L4/llama@tiny-llama")
    for trace in task.traces:
        assert all(len(case.paths) == case.count for case in trace.cases)
        assert trace.calls("L3/llama_decoder") == task.model.config.num_hidden_layers


def test_equal_layers_merge_although_their_prefixes_differ() -> None:
    decode = _phase(load_task("L2/llama_mlp@llama-3.1-8b").cases, "decode")
    assert [case.count for case in decode] == [32]
    assert decode[0].args[0].shape == (32, 4096)


@pytest.mark.parametrize("operator", ["L1/flash_attn_decode", "L2/gemma3_attention"])
def test_layers_with_and_without_a_window_are_cases_of_their_own(operator: str) -> None:
    sliding, full = _phase(load_task(f"{operator}@gemma-3-1b").cases, "decode")
    assert (sliding.count, full.count) == (22, 4)
    assert [int(path.split(".")[2]) for path in full.paths] == [5, 11, 17, 23]
    if operator == "L1/flash_attn_decode":
        assert sliding.init["per_layer_sliding_window"] == 512 and full.init["per_layer_sliding_window"] is None


def test_the_query_is_a_view_into_the_fused_projection() -> None:
    (case,) = _phase(load_task("L1/rotary_emb@llama-3.1-8b").cases, "prefill")
    shapes = {arg.name: (arg.shape, arg.stride) for arg in case.args}
    assert shapes["query"] == ((2048, 4096), (6144, 1))
    assert shapes["key"] == ((2048, 1024), (6144, 1))
    assert shapes["positions"] == ((2048,), (1,))


def test_attention_over_a_paged_cache() -> None:
    (case,) = load_task("L1/flash_attn_decode@llama-3.1-8b").cases
    args = {arg.name: arg for arg in case.args}
    assert case.phase == "decode"
    assert args["query"].shape == (32, 32, 128)
    assert args["key_cache"].shape == (32 * 65, 16, 8, 128)
    assert args["block_table"].shape == (32, 65)
    assert args["max_seq_len"].value == 65 * 16


def test_only_the_last_rows_meet_the_head() -> None:
    cases = load_task("L2/parallel_embedding.ParallelLMHead@llama-3.1-8b").cases
    assert [(case.phase, case.args[0].shape) for case in cases] == [("prefill", (1, 4096)), ("decode", (32, 4096))]


def test_tensor_parallel_shapes_are_sharded() -> None:
    whole, half = (load_task(f"L1/silu_and_mul@llama-3.1-8b{suffix}").cases[0] for suffix in ("", "+tp2"))
    assert whole.args[0].shape == (2048, 2 * 14336)
    assert half.args[0].shape == (2048, 14336)
    reduced = load_task("L1/allreduce@llama-3.1-8b+tp2").cases
    assert reduced[0].args[0].shape == (2048, 4096)
    assert not torch.distributed.is_initialized()


def test_a_size_that_cannot_be_sharded_says_so() -> None:
    with pytest.raises(UnsupportedModel, match="llama-3.1-8b"):
        load_task("L1/rms_norm@llama-3.1-8b+tp7")


def test_cases_are_json() -> None:
    for operator in ("L1/rotary_emb", "L2/attention", "L3/llama_decoder", "L4/llama"):
        for case in load_task(f"{operator}@tiny-llama").cases:
            assert json.loads(json.dumps(case.to_json()))["count"] == case.count


def test_tracing_leaves_the_process_as_it_was() -> None:
    before = torch.get_default_dtype()
    load_task("L1/rms_norm@llama-3.2-1b")
    assert torch.get_default_dtype() == before


def test_the_largest_model_fits_a_laptop(tmp_path: Path) -> None:
    program = """
import re, time
from pathlib import Path
import fastkernels_gym.catalog as catalog
import fastkernels_gym.tasks.baseline.L4.llama
start = time.perf_counter()
found = catalog.list_tasks("*@llama-3.1-8b")
# Not ru_maxrss, in which the memory of the process that started this one survives.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(len(found), time.perf_counter() - start, int(peak[1]) / 2**20)
"""
    output = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    tasks, seconds, gigabytes = map(float, output.stdout.split())
    assert tasks >= 10
    assert seconds < 5
    assert gigabytes < 2
