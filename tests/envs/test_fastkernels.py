"""The environment's contract: spaces, seeds, turns, payouts, and what it says in `info`."""

import json
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from fastkernels_gym import Evaluator, Verdict, list_tasks
from fastkernels_gym.envs import DONE, FastKernelsEnv
from fastkernels_gym.errors import UnknownTask, UnmeasuredReward, UserError

TASK = "L1/silu_and_mul@tiny-llama"
INFO = {
    "verdict": str,
    "correct": bool,
    "stable": bool,
    "op_speedup": float,
    "e2e_speedup": float,
    "ci_low": float,
    "ci_high": float,
    "seconds": float,
    "evaluation": str,
}


def quick(evaluator: Evaluator, **kwargs: object) -> FastKernelsEnv:
    defaults = {"tasks": TASK, "measure": "op", "budget_s": 0.3, "evaluator": evaluator}
    return FastKernelsEnv(**(defaults | kwargs))


def test_check_env_has_nothing_to_say(evaluator: Evaluator) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kwargs = {"tasks": TASK, "measure": "op", "budget_s": 0.2, "max_turns": 3, "payout": "each", "failure": -1.0}
        env = FastKernelsEnv(**kwargs, evaluator=evaluator)
        env.spec = gymnasium.make("fastkernels_gym:FastKernels-v0", **kwargs).spec
        check_env(env)


def test_the_default_reward_is_the_end_to_end_speedup(twice_as_fast: Any) -> None:
    env = FastKernelsEnv(tasks=TASK, evaluator=twice_as_fast)
    env.reset()
    observation, reward, terminated, truncated, info = env.step("Fused:\n\n```python\nclass SiluAndMul: ...\n```\n")
    assert (reward, terminated, truncated) == (1.25, True, False) and type(reward) is float
    assert observation["best_reward"] == np.float32(1.25)
    assert info == {
        "verdict": "ok",
        "correct": True,
        "stable": True,
        "op_speedup": 2.0,
        "e2e_speedup": 1.25,
        "ci_low": 1.2,
        "ci_high": 1.3,
        "seconds": 9.5,
        "evaluation": twice_as_fast.evaluation.to_json(),
    }


def test_turns_pay_what_they_add_to_the_best(evaluator: Evaluator, kernels: Any) -> None:
    env = quick(evaluator, max_turns=4)
    first, info = env.reset(seed=1)
    assert first in env.observation_space and first["turn"] == 0 and first["best_reward"] == 0.0
    assert first["task"] == TASK and "SiluAndMul" in first["reference"] and "SiluAndMul" in first["prompt"]
    assert json.loads(first["shapes"])[0]["phase"] == "prefill"
    rewards, seen = [], [first]
    for action in (kernels.slow, kernels.good, kernels.wrong, "I have no idea."):
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space and not truncated
        assert {key: type(value) for key, value in info.items()} == INFO
        rewards.append(reward)
        seen.append(observation)
    slow, good, wrong, nothing = rewards
    assert 0.0 < slow < good and wrong == nothing == 0.0
    assert sum(rewards) == pytest.approx(float(observation["best_reward"]))
    assert [o["turn"] for o in seen] == [0, 1, 2, 3, 4] and terminated
    assert seen[3]["feedback"] and "candidate" in seen[4]["feedback"]
    with pytest.raises(ResetNeeded):
        env.step(kernels.good)


def test_each_turn_pays_its_own_reward(twice_as_fast: Any, kernels: Any) -> None:
    env = FastKernelsEnv(tasks=TASK, max_turns=3, payout="each", failure=-1.0, reward="op", evaluator=twice_as_fast)
    env.reset()
    paid = [env.step(action)[1] for action in ("no candidate", kernels.good, kernels.good)]
    assert paid == [-1.0, 2.0, 2.0]


def test_equal_turns_pay_once(twice_as_fast: Any, kernels: Any) -> None:
    env = FastKernelsEnv(tasks=TASK, max_turns=3, failure=-1.0, reward="op", evaluator=twice_as_fast)
    env.reset()
    assert [env.step(action)[1] for action in ("no candidate", kernels.good, kernels.good)] == [-1.0, 3.0, 0.0]


def test_the_return_is_the_best_reward_where_every_turn_fails(evaluator: Evaluator, kernels: Any) -> None:
    env = quick(evaluator, max_turns=2, failure=-1.0)
    env.reset()
    assert env.step(kernels.wrong)[1] + env.step("no candidate")[1] == -1.0


def test_done_ends_the_episode_and_pays_nothing(evaluator: Evaluator) -> None:
    env = quick(evaluator, max_turns=3)
    env.reset()
    _, reward, terminated, truncated, info = env.step(f" {DONE}\n")
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert {key: type(value) for key, value in info.items()} == INFO and info["verdict"] == ""


def test_the_machines_fault_truncates_without_a_reward(lost: Any, kernels: Any) -> None:
    env = FastKernelsEnv(tasks=TASK, max_turns=3, failure=-1.0, evaluator=lost)
    env.reset()
    observation, reward, terminated, truncated, info = env.step(kernels.good)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["verdict"] == "infra_error" and info["correct"] is False
    assert "lost" in observation["feedback"] and observation["best_reward"] == 0.0


def test_text_that_is_not_utf8_is_the_candidates_fault(evaluator: Evaluator, kernels: Any) -> None:
    env = quick(evaluator)
    env.reset()
    info = env.step(kernels.good + "# \ud800\n")[4]
    assert info["verdict"] in ("policy_reject", "")


def test_tasks_are_drawn_by_the_seed_from_all_that_match(evaluator: Evaluator) -> None:
    env = quick(evaluator, tasks=["L1/*@tiny-llama", "L2/llama_mlp@tiny-llama", "L1/rms_norm@tiny-llama"])
    wanted = {*list_tasks("L1/*@tiny-llama"), "L2/llama_mlp@tiny-llama"}
    env.reset(seed=5)
    drawn = [env.reset()[0]["task"] for _ in range(100)]
    env.reset(seed=5)
    assert drawn == [env.reset()[0]["task"] for _ in range(100)]
    assert set(drawn) == wanted


@pytest.mark.parametrize("level", [None, 1, 2, 3, 4])
def test_the_default_tasks_are_the_training_split_of_a_level(evaluator: Evaluator, level: int | None) -> None:
    env = FastKernelsEnv(level=level, evaluator=evaluator)
    pattern = "*" if level is None else f"L{level}/*"
    wanted = set(list_tasks(f"{pattern}@tiny-llama", split="train"))
    env.reset(seed=0)
    assert {env.reset()[0]["task"] for _ in range(20 * len(wanted))} == wanted


def test_an_explicit_task_overrides_the_split_and_the_draw(evaluator: Evaluator) -> None:
    held_out = "L1/rotary_emb@tiny-llama"
    assert held_out not in list_tasks("L1/*@tiny-llama", split="train")
    env = quick(evaluator)
    assert env.reset(options={"task": held_out})[0]["task"] == held_out
    assert quick(evaluator, tasks=[held_out]).reset()[0]["task"] == held_out


def test_the_baseline_is_shown_only_on_request(evaluator: Evaluator) -> None:
    hidden = quick(evaluator).reset()[0]["reference"]
    shown = quick(evaluator, show_baseline=True).reset()[0]["reference"]
    assert "forward_native" in hidden and "forward_cuda" not in hidden
    assert "forward_cuda" in shown


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"level": 5}, UserError, "level"),
        ({"max_turns": 0}, UserError, "turn"),
        ({"payout": "all"}, UserError, "payout"),
        ({"measure": "fast"}, UserError, "measure"),
        ({"reward": "gold"}, UserError, "reward"),
        ({"reward": "e2e"}, UnmeasuredReward, "e2e"),
        ({"budget_s": 0.0}, UserError, "budget"),
        ({"render_mode": "rgb_array"}, UserError, "render mode"),
    ],
)
def test_bad_arguments_are_refused_at_once(kwargs: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FastKernelsEnv(**({"measure": "op", "device": "cpu"} | kwargs))


def test_unknown_tasks_name_what_there_is(evaluator: Evaluator, kernels: Any) -> None:
    env = quick(evaluator, tasks="L1/rms_nrom@tiny-llama")
    with pytest.raises(UnknownTask, match="rms_norm"):
        env.reset()
    with pytest.raises(UnknownTask, match="level 2"):
        quick(evaluator, level=2).reset()
    with pytest.raises(ResetNeeded):
        env.step(kernels.good)


def test_rendering_shows_the_task_and_the_turn(evaluator: Evaluator, capsys: pytest.CaptureFixture[str]) -> None:
    env = quick(evaluator, render_mode="ansi")
    env.reset()
    text = env.render()
    assert isinstance(text, str) and TASK in text and "turn 0/1" in text
    human = quick(evaluator, render_mode="human")
    human.reset()
    human.step("no candidate")
    assert "turn 1/1" in capsys.readouterr().out


def test_an_environment_leaves_a_shared_evaluator_open(evaluator: Evaluator) -> None:
    shared = quick(evaluator)
    shared.reset()
    shared.close()
    assert evaluator.evaluate(TASK, "x = (", measure="op").verdict is Verdict.LOAD_ERROR
