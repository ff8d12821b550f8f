"""What there is to optimise: models, operators, workloads, and the tasks that they make together."""

from fastkernels_gym.catalog.cases import ArgSpec, Case
from fastkernels_gym.catalog.graph import ImportGraph, import_graph
from fastkernels_gym.catalog.ids import TaskId
from fastkernels_gym.catalog.ladder import Rung, rungs
from fastkernels_gym.catalog.models import Model, bundled_models, load_model_config
from fastkernels_gym.catalog.observation import Observation
from fastkernels_gym.catalog.operators import OperatorInfo, find_operator, operators
from fastkernels_gym.catalog.splits import Split, split_of
from fastkernels_gym.catalog.suites import Suite, load_suite
from fastkernels_gym.catalog.tasks import Task, list_tasks, load_task
from fastkernels_gym.catalog.workloads import Phase, Workload

__all__ = [
    "ArgSpec",
    "Case",
    "ImportGraph",
    "Model",
    "Observation",
    "OperatorInfo",
    "Phase",
    "Rung",
    "Split",
    "Suite",
    "Task",
    "TaskId",
    "Workload",
    "bundled_models",
    "find_operator",
    "import_graph",
    "list_tasks",
    "load_model_config",
    "load_suite",
    "load_task",
    "operators",
    "rungs",
    "split_of",
]
