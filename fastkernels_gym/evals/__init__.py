"""The evaluation of agents: run folder, loop, metrics, table. Agents are handed in; no name is resolved here."""

from fastkernels_gym.evals.folder import RunConfig, RunFolder
from fastkernels_gym.evals.limits import Account, Limits
from fastkernels_gym.evals.metrics import Metrics, Summary, summarise
from fastkernels_gym.evals.prices import Price, Prices
from fastkernels_gym.evals.progress import progress
from fastkernels_gym.evals.rollout import Rollout
from fastkernels_gym.evals.run import choose_tasks, run_eval
from fastkernels_gym.evals.table import summary_table

__all__ = [
    "Account",
    "Limits",
    "Metrics",
    "Price",
    "Prices",
    "Rollout",
    "RunConfig",
    "RunFolder",
    "Summary",
    "choose_tasks",
    "progress",
    "run_eval",
    "summarise",
    "summary_table",
]
