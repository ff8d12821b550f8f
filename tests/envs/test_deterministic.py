"""The environment with a fake clock: deterministic, and frank about it."""

import json
import warnings
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from fastkernels_gym import Evaluator
from fastkernels_gym.envs import DeterministicFastKernelsEnv


def test_check_env_finds_it_deterministic(evaluator: Evaluator, kernels: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec = gymnasium.make("fastkernels_gym:FastKernels/Deterministic-v0", tasks=kernels.task).spec
        assert not spec.nondeterministic
        env = DeterministicFastKernelsEnv(tasks=kernels.task, evaluator=evaluator)
        env.spec = spec
        check_env(env)


def test_a_correct_reply_earns_one_and_the_evaluation_says_why(twice_as_fast: Any, kernels: Any) -> None:
    env = DeterministicFastKernelsEnv(tasks=kernels.task, evaluator=twice_as_fast)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(kernels.good)
    assert reward == info["op_speedup"] == 1.0
    assert "fake clock" in json.loads(info["evaluation"])["warnings"][0]


def test_a_wrong_reply_earns_the_failure_value(evaluator: Evaluator, kernels: Any) -> None:
    env = DeterministicFastKernelsEnv(tasks=kernels.task, failure=-1.0, evaluator=evaluator)
    env.reset()
    _, reward, _, _, info = env.step(kernels.wrong)
    assert reward == -1.0 and info["verdict"] == "wrong_value"
