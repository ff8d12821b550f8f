import ast
import json
import sys
from types import ModuleType

import pytest

from fastkernels_gym.catalog import bundled_models, list_tasks, load_task, operators
from fastkernels_gym.catalog.reference import reference_source
from fastkernels_gym.tasks.baseline.operator import Operator


@pytest.mark.parametrize("operator_id", list(operators()))
def test_a_reference_is_a_module_that_defines_the_operator(operator_id: str) -> None:
    operator = operators()[operator_id]
    text = reference_source(operator)
    for word in ("forward_cuda", "triton", "flash_attn_func", "__all__"):
        assert word not in text.lower()
    module = ModuleType("reference_under_test")
    sys.modules[module.__name__] = module
    try:
        exec(compile(text, operator_id, "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
    assert issubclass(vars(module)[operator.class_name], Operator)
    assert "def forward_native" in text


@pytest.mark.parametrize("operator_id", list(operators()))
def test_a_reference_lacks_no_name(operator_id: str) -> None:
    tree = ast.parse(reference_source(operators()[operator_id]))
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    bound |= {(item.asname or item.name).partition(".")[0] for node in imports for item in node.names}
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert read <= bound | set(dir(__builtins__) if isinstance(__builtins__, ModuleType) else __builtins__)


def test_the_baseline_is_shown_on_request_only() -> None:
    task = load_task("L1/rms_norm@tiny-llama")
    hidden, shown = task.observation(), task.observation(show_baseline=True)
    assert "forward_cuda" not in hidden.reference
    assert "def forward_cuda" in shown.reference
    assert "triton" in shown.reference
    assert hidden.shapes == shown.shapes


def test_imported_operators_appear_as_signatures() -> None:
    reference = load_task("L2/llama_mlp@tiny-llama").observation().reference
    assert "import MergedColumnParallelLinear" in reference
    assert "# class MergedColumnParallelLinear:" in reference
    assert (
        "#     def forward(self, x: torch.Tensor) -> LinearOutput\n#     LinearOutput = torch.Tensor | tuple["
        in reference
    )
    assert "class LlamaMLP(Operator)" in reference


def test_shapes_say_what_is_called_how_often() -> None:
    observation = load_task("L1/rms_norm@llama-3.1-8b").observation()
    shapes = json.loads(observation.shapes)
    assert observation.task == "L1/rms_norm@llama-3.1-8b"
    assert {shape["phase"] for shape in shapes} == {"prefill", "decode"}
    assert all(set(shape) == {"phase", "n", "count", "init", "args"} for shape in shapes)
    assert shapes[1]["args"][0] == {"name": "x", "shape": [2048, 4096], "dtype": "bfloat16", "stride": [4096, 1]}


@pytest.mark.parametrize("model", bundled_models())
def test_every_task_can_be_observed(model: str) -> None:
    for task_id in list_tasks(f"*@{model}"):
        observation = load_task(task_id).observation()
        assert observation.reference
        assert json.loads(observation.shapes)
