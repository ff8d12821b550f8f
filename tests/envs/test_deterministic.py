"""The environment with a fake clock: deterministic, and frank about it."""

import json
import warnings
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from fastkernels_gym import Evaluator
from fastkernels_gym.envs import DeterministicFastKernelsEnv


def test_check_env_finds_it_deterministic(kernels: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("fastkernels_gym:FastKernels/Deterministic-v0", tasks=kernels.task)
        assert not env.spec.nondeterministic
        check_env(env.unwrapped)
        env.close()


def test_the_same_reply_earns_the_same(evaluator: Evaluator, kernels: Any) -> None:
    env = DeterministicFastKernelsEnv(tasks=kernels.task, max_turns=2, failure=-1.0, evaluator=evaluator)
    runs = []
    for _ in range(2):
        env.reset(seed=0)
        runs.append([str(env.step(action)) for action in (kernels.wrong, kernels.slow)])
    assert runs[0] == runs[1]
    env.reset()
    _, reward, _, _, info = env.step(kernels.good)
    assert reward == 1.0 and "fake clock" in json.loads(info["evaluation"])["warnings"][0]
