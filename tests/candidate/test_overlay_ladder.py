"""The ladder: a replaced operator is what every user of it runs, up to the whole model."""

import ast
import json
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fastkernels_gym.catalog.graph import import_graph
from fastkernels_gym.catalog.models import load_model_config
from fastkernels_gym.catalog.operators import OperatorInfo, find_operator, operators
from fastkernels_gym.catalog.trace import Trace, trace
from fastkernels_gym.catalog.workloads import TINY

Fresh = Callable[..., str]
MODELS = {"tiny-llama": "L4/llama", "tiny-qwen3": "L4/qwen3", "tiny-gemma3": "L4/gemma3", "tiny-phi3": "L4/phi3"}
COUNTER = """

CALLS = []


def counted(forward):
    def forward_and_count(self, *args, **kwargs):
        CALLS.append(self)
        return forward(self, *args, **kwargs)

    return forward_and_count


"""


def operators_of(model_name: str) -> list[OperatorInfo]:
    l4 = MODELS[model_name]
    return [*import_graph(l4).parts(l4), find_operator(l4)]


def classes_of(operator: OperatorInfo) -> tuple[type, ...]:
    """The baseline's class of an operator and its bases."""
    found: type = getattr(import_module(operator.module), operator.class_name)
    return found.__mro__


def copy_of(operator: OperatorInfo) -> str:
    """A candidate: the operator's class as it is, all else imported; its calls are counted."""
    text = Path(operator.path).read_text()
    tree = ast.parse(text)
    kept, here = [], []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            kept.append(ast.unparse(node))
        elif isinstance(node, ast.ClassDef) and node.name == operator.class_name:
            definition = node
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            here.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            here += [target.id for target in targets if isinstance(target, ast.Name) and target.id != "__all__"]
    used = {node.id for node in ast.walk(definition) if isinstance(node, ast.Name)} & set(here)
    kept += [f"from .{Path(operator.path).stem} import {name}" for name in sorted(used)]
    name = operator.class_name
    return "\n".join(kept) + COUNTER + ast.unparse(definition) + f"\n{name}.forward = counted({name}.forward)\n"


def copy_of_file(family: list[OperatorInfo]) -> str:
    """A candidate: the whole file, in which calls of any operator are counted once."""
    roots = [o.class_name for o in family if not any(classes_of(other)[0] in classes_of(o)[1:] for other in family)]
    counted = [f"{name}.forward = counted({name}.forward)\n" for name in roots]
    return Path(family[0].path).read_text() + COUNTER + "".join(counted)


def check(fresh: Fresh, folder: Path, model_name: str, replaced: list[OperatorInfo], source: str) -> None:
    """Runs the model with the candidate and compares what ran it with what the catalog says calls the operators."""
    model = load_model_config(model_name)
    l4 = find_operator(MODELS[model_name])
    graph = import_graph(l4.id)
    users = {user.id: user for operator in replaced for user in graph.users(operator.id)}
    (folder / "candidate.py").write_text(source)
    job = {
        "module": replaced[0].module,
        "classes": [operator.class_name for operator in replaced],
        "candidate": str(folder / "candidate.py"),
        "model": [l4.module, l4.class_name],
        "config": model.config.to_dict(),
        "phases": [{"batch": p.batch, "query_len": p.query_len, "context_len": p.context_len} for p in TINY.phases],
        "users": [[user.id, user.module, user.class_name] for user in users.values()],
    }
    program = "from counted_pass import run; print(run(arguments))"
    seen: dict[str, Any] = json.loads(fresh(program, Path(__file__).parent, job))

    # A class derived from a replaced one runs its forward too.
    originals = {classes_of(operator)[0] for operator in replaced}
    runners = {o.id for o in operators_of(model_name) if originals & set(classes_of(o))}
    called: set[str] = set()
    for phase, found in zip(TINY.phases, seen["phases"], strict=True):
        expected = trace(model, phase)
        cases = [case for case in expected.cases if case.operator in runners]
        paths = Counter(path for case in cases for path in case.paths)
        assert found["calls"] == paths and paths.total() == sum(case.count for case in cases)
        assert Counter(found["nested"]) == nested_calls(expected, users, runners)
        called |= {path for case in cases if case.operator in {o.id for o in replaced} for path in case.paths}
    assert not seen["missed"]
    assert called <= set(seen["replaced"])


def nested_calls(expected: Trace, users: dict[str, OperatorInfo], runners: set[str]) -> Counter[str]:
    return Counter({user: sum(expected.nested.get((user, runner), 0) for runner in runners) for user in users})


@pytest.mark.parametrize(
    ("operator_id", "model_name"), [(operator.id, name) for name in MODELS for operator in operators_of(name)]
)
def test_every_user_runs_the_copy(fresh: Fresh, tmp_path: Path, operator_id: str, model_name: str) -> None:
    operator = find_operator(operator_id)
    check(fresh, tmp_path, model_name, [operator], copy_of(operator))


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("family", ["L2/parallel_linear", "L2/parallel_embedding"])
def test_a_whole_file_is_replaced(fresh: Fresh, tmp_path: Path, family: str, model_name: str) -> None:
    members = [operator for operator in operators().values() if operator.family == family]
    check(fresh, tmp_path, model_name, members, copy_of_file(members))
