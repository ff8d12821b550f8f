"""The examples run: a random agent, and a bandit whose mean reward rises."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fastkernels_gym import Evaluator
from fastkernels_gym.envs import FastKernelsEnv

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_the_bandit_learns_which_block_size_pays(evaluator: Evaluator, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    example = load("train_bandit")
    env = FastKernelsEnv(
        tasks="L1/silu_and_mul@tiny-llama", measure="op", reward="op", budget_s=0.2, evaluator=evaluator
    )
    bandit = example.Bandit(2, np.random.default_rng(0))
    history = example.train(env, bandit, (16, 1024), 5)
    rewards = [reward for _, reward in history]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:2])
    assert bandit.means[1] > 1.5 * bandit.means[0] and bandit.counts.tolist() == [1, 4]
    example.plot(history, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_random_agent_plays_whole_episodes() -> None:
    options = "--episodes 1 --turns 2 --tasks L1/rms_norm@tiny-llama --device cpu".split()
    command = [sys.executable, str(EXAMPLES / "random_agent.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "turn 2: " in done.stdout and done.stdout.count("  return ") == 1
