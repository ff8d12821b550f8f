"""The splits and the suites: disjoint, existing, frozen."""

import hashlib
from fnmatch import fnmatchcase
from importlib.resources import files

import pytest

from fastkernels_gym.catalog import list_tasks, load_suite, load_task, operators, split_of
from fastkernels_gym.catalog.manifest import LATEST, load_manifest
from fastkernels_gym.catalog.suites import Suite
from fastkernels_gym.envs.tasks import training_tasks
from fastkernels_gym.errors import UnknownTask

# A published manifest never changes: what should be otherwise becomes the next version, in a file of its own.
PUBLISHED = {1: "25897498b9be8ba5fc1f9815781bac59fd23e7d381cb8506acc0e81b099120b2"}
SUITES = [load_suite(name, device) for name in load_manifest().suites for device in ("cpu", "cuda")]

every_suite = pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.name}-{suite.device}")


def test_published_manifests_are_frozen() -> None:
    folder = files("fastkernels_gym.tasks").joinpath("suites")
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert found == {f"v{version}.json": digest for version, digest in PUBLISHED.items()}
    assert max(PUBLISHED) == LATEST


@every_suite
def test_tasks_of_a_suite_exist_and_are_held_out(suite: Suite) -> None:
    assert suite.tasks and len(set(suite.tasks)) == len(suite.tasks)
    assert [load_task(task_id).id for task_id in suite.tasks] == list(suite.tasks)
    assert {split_of(task_id) for task_id in suite.tasks} == {"test"}
    assert all(fnmatchcase(task_id, "*@tiny-*") == (suite.device == "cpu") for task_id in suite.tasks)
    assert {task_id[:2] for task_id in suite.tasks} == {"L1", "L2", "L3", "L4"}
    assert [task_id[:2] for task_id in suite.tasks] == sorted(task_id[:2] for task_id in suite.tasks)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_task_of_a_suite_is_trained_on(device: str) -> None:
    trained = set(training_tasks(device)) | set(list_tasks(split="train"))
    assert trained.isdisjoint(task_id for suite in SUITES for task_id in suite.tasks)
    assert trained.isdisjoint(list_tasks(split="test"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_larger_suites_hold_the_smaller_ones(device: str) -> None:
    smoke, standard, full = (set(load_suite(name, device).tasks) for name in ("smoke", "standard", "full"))
    assert len(smoke) == 4 < len(standard) < len(full)
    assert smoke | standard <= full


def test_each_way_of_holding_out_is_in_the_standard_suite() -> None:
    rules = load_manifest().held_out
    tasks = [load_task(task_id) for task_id in load_suite("standard", "cuda").tasks]
    new_family = [
        task for task in tasks if task.operator.family in rules.families and task.model.name == "llama-3.1-8b"
    ]
    assert new_family and rules.models - {"llama-3.1-70b"} <= {task.model.name for task in tasks}
    assert any(task.workload.name in rules.workloads for task in tasks)


def test_what_is_held_out_exists() -> None:
    rules = load_manifest().held_out
    assert rules.families <= {operator.family for operator in operators().values()}
    assert all(list_tasks(f"L1/rms_norm@{model}", split="test") for model in rules.models)
    assert all(load_task(f"L1/rms_norm@llama-3.1-8b:{workload}") for workload in rules.workloads)


@pytest.mark.parametrize(
    ("task_id", "split"),
    [
        ("L1/rms_norm@llama-3.1-8b", "train"),
        ("L1/rms_norm@llama-3.1-8b:chat/decode", "train"),
        ("L1/rms_norm@llama-3.1-8b:long", "test"),
        ("L1/rms_norm@llama-3.1-8b:long/decode", "test"),
        ("L1/rms_norm@llama-3.1-8b+tp2", "test"),
        ("L1/rotary_emb@tiny-llama", "test"),
        ("L1/rms_norm@Qwen/Qwen3-8B", "test"),
        ("L1/rms_norm@/models/qwen3-8b/config.json", "test"),
    ],
)
def test_operator_model_and_shapes_decide_the_split(task_id: str, split: str) -> None:
    assert split_of(task_id) == split


def test_a_suite_is_named_with_or_without_its_version() -> None:
    assert load_suite("standard", "cuda") == load_suite("standard-v1", "cuda")
    assert load_suite("standard", "cuda").id == "standard-v1"
    for name in ("huge", "smoke-v2", "smoke-v0", "smoke-", "Smoke", "../smoke", ""):
        with pytest.raises(UnknownTask, match="there are smoke"):
            load_suite(name, "cpu")
