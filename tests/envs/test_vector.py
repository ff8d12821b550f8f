"""The vector environment: every reply judged, episodes following one another within the same step."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from fastkernels_gym import Evaluator
from fastkernels_gym.envs import FastKernelsVectorEnv


def test_make_vec_gives_our_own(kernels: Any) -> None:
    envs = gymnasium.make_vec(
        "fastkernels_gym:FastKernels-v0", num_envs=2, tasks=kernels.task, measure="op", device="cpu"
    )
    assert isinstance(envs, FastKernelsVectorEnv) and envs.num_envs == 2
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observations, _ = envs.reset(seed=0)
    assert observations["task"] == (kernels.task, kernels.task)
    envs.close()
    envs.close()


def test_single_turn_episodes_lose_no_reply(evaluator: Evaluator, kernels: Any) -> None:
    envs = FastKernelsVectorEnv(2, tasks=kernels.task, measure="op", budget_s=0.2, evaluator=evaluator)
    envs.reset(seed=0)
    for actions, correct in (
        ((kernels.good, kernels.wrong), [True, False]),
        ((kernels.wrong, "x = 1"), [False, False]),
    ):
        observations, rewards, terminations, truncations, infos = envs.step(actions)
        assert terminations.all() and not truncations.any()
        assert ((rewards > 0) == correct).all()
        assert infos["final_info"]["correct"].tolist() == correct
        assert [final["turn"] for final in infos["final_obs"]] == [1, 1]
        assert observations["turn"].tolist() == [0, 0] and observations["feedback"] == ("", "")
    envs.close()


def test_episodes_of_several_turns_end_apart(evaluator: Evaluator, kernels: Any) -> None:
    envs = FastKernelsVectorEnv(
        2, tasks=kernels.task, measure="op", max_turns=2, failure=-1.0, payout="each", evaluator=evaluator
    )
    envs.reset(seed=0)
    observations, rewards, terminations, _, infos = envs.step((kernels.wrong, "DONE"))
    assert terminations.tolist() == [False, True] and rewards.tolist() == [-1.0, 0.0]
    assert observations["turn"].tolist() == [1, 0] and infos["_final_obs"].tolist() == [False, True]
    assert observations["feedback"][0] and not observations["feedback"][1]
    _, rewards, terminations, _, _ = envs.step(("no candidate", kernels.wrong))
    assert terminations.tolist() == [True, False] and rewards.tolist() == [-1.0, -1.0]
    envs.close()


def test_one_evaluator_serves_all_and_seeds_differ(evaluator: Evaluator, kernels: Any) -> None:
    envs = FastKernelsVectorEnv(4, tasks="L1/*@tiny-llama", evaluator=evaluator)
    first, _ = envs.reset(seed=3)
    again, _ = envs.reset(seed=3)
    assert first["task"] == again["task"] and len(set(first["task"])) > 1
    envs.action_space.seed(0)
    assert envs.action_space.sample() in envs.action_space
    assert isinstance(first["best_reward"], np.ndarray)
    with pytest.raises(ValueError, match="4 replies, not 1"):
        envs.step((kernels.good,))
    envs.close()
