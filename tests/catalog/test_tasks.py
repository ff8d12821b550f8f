import json
from importlib.resources import files
from pathlib import Path

import pytest

from fastkernels_gym.catalog import bundled_models, list_tasks, load_task, split_of
from fastkernels_gym.errors import UnknownModel, UnknownTask


@pytest.mark.parametrize("model", bundled_models())
def test_every_bundled_model_lists_tasks_of_all_levels(model: str) -> None:
    found = list_tasks(f"*@{model}")
    assert {task_id[:2] for task_id in found} == {"L1", "L2", "L3", "L4"}
    assert len(set(found)) == len(found)
    for task_id in found:
        task = load_task(task_id)
        assert task.id == task_id
        assert task.cases
    assert not any("allreduce" in task_id for task_id in found)


def test_patterns() -> None:
    one = list_tasks("L1/rms_norm@tiny-llama")
    assert one == ["L1/rms_norm@tiny-llama"]
    assert set(one) < set(list_tasks("L1/*@tiny-llama")) < set(list_tasks("*@tiny-llama"))
    linears = list_tasks("L2/parallel_linear@tiny-llama")
    assert "L2/parallel_linear.QKVParallelLinear@tiny-llama" in linears
    assert all(task_id.startswith("L2/parallel_linear.") for task_id in linears)
    assert list_tasks("L1/rms_norm@tiny-llama:tiny/*") == [
        "L1/rms_norm@tiny-llama:tiny/prefill",
        "L1/rms_norm@tiny-llama:tiny/decode",
    ]
    assert list_tasks("L1/rms_norm@tiny-llama*:t*") == ["L1/rms_norm@tiny-llama", "L1/rms_norm@tiny-llama:tiny-long"]


def test_a_pattern_without_a_model_covers_the_bundled_ones() -> None:
    assert {task_id.partition("@")[2] for task_id in list_tasks("L1/linear")} == set(bundled_models())


def test_ids_are_canonical() -> None:
    assert load_task("L1/rms_norm@tiny-llama:tiny").id == "L1/rms_norm@tiny-llama"
    assert load_task("L1/rms_norm@tiny-llama+tp1").id == "L1/rms_norm@tiny-llama"
    assert load_task("L1/rms_norm@llama-3.1-8b:tiny").id == "L1/rms_norm@llama-3.1-8b:tiny"


def test_a_phase_keeps_its_cases_only() -> None:
    task = load_task("L1/rms_norm@llama-3.1-8b:chat/decode")
    assert task.id == "L1/rms_norm@llama-3.1-8b:chat/decode"
    assert {case.phase for case in task.cases} == {"decode"}
    assert [phase.n for phase in task.workload.phases] == [256]


def test_siblings_are_those_of_the_file() -> None:
    task = load_task("L2/parallel_linear.RowParallelLinear@tiny-llama")
    assert "L2/parallel_linear.QKVParallelLinear" in task.replaced_with
    assert task.operator.id not in task.replaced_with
    assert load_task("L1/rms_norm@tiny-llama").replaced_with == ()


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        ("L1/rms_nrm@tiny-llama", "did you mean L1/rms_norm"),
        ("L1/rms_norm@tiny-llama:chatter", "no workload 'chatter': there are chat, tiny"),
        ("L1/rms_norm@tiny-llama:tiny/train", "no phase 'train': it has prefill, decode"),
        ("L1/allreduce@tiny-llama", "never calls L1/allreduce in tiny/prefill.decode: it calls .*L1/rms_norm"),
        ("L1/flash_attn_decode@tiny-llama:tiny/prefill", "never calls"),
        ("L1/rms_norm", "no task id"),
        ("L2/parallel_linear@tiny-llama", "several operators"),
        ("L1/rms_norm@tiny-llama+tp0", "no model"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(task_id: str, message: str) -> None:
    with pytest.raises((UnknownTask, UnknownModel), match=message):
        load_task(task_id)


def test_a_workload_that_the_model_cannot_hold_names_one_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    text = files("fastkernels_gym.tasks").joinpath("models", "tiny-llama.json").read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(text) | {"max_position_embeddings": 200}), encoding="utf-8")
    with pytest.raises(UnknownTask, match="holds 200 positions, chat.* needs 2048; workloads that fit: tiny"):
        load_task(f"L1/rms_norm@{path}")
    assert load_task(f"L1/rms_norm@{path}:tiny").cases
    assert list_tasks(f"L1/rms_norm@{path}:*") == [f"L1/rms_norm@{path}:tiny"]


@pytest.mark.parametrize("pattern", ["L9/*@tiny-llama", "*@nothing-*", "L1/allreduce@tiny-llama", "nonsense"])
def test_a_pattern_that_matches_nothing_is_an_error(pattern: str) -> None:
    with pytest.raises(UnknownTask):
        list_tasks(pattern)


@pytest.mark.parametrize("model", ["tiny-llama", "llama-3.1-8b"])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_each_level_has_tasks_to_train_on(model: str, level: int) -> None:
    assert list_tasks(f"L{level}/*@{model}", split="train")


def test_the_splits_part_the_tasks() -> None:
    every = list_tasks()
    train, test = list_tasks(split="train"), list_tasks(split="test")
    assert sorted(train + test) == sorted(every)
    assert {task_id.partition("@")[2] for task_id in train} & {"tiny-llama", "llama-3.1-8b"}
    assert split_of("L1/rms_norm@Qwen/Qwen3-8B") == split_of("L1/rms_norm@qwen3-8b") == "test"
    assert split_of("L1/rms_norm@/models/qwen3-8b/config.json") == "test"
