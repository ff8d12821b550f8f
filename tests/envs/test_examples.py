"""The examples run: a random agent, a bandit whose mean reward rises, and operators that fit into vLLM."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from fastkernels_gym import Evaluator
from fastkernels_gym.envs import FastKernelsEnv
from fastkernels_gym.tasks.baseline.L1.rotary_emb import RotaryEmbedding

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


def test_our_operators_fit_vllms_classes_without_edits() -> None:
    example = load("port_to_vllm")
    norm = example.ported(example.VllmRMSNorm, example.RMSNorm)(32, 1e-5)
    assert isinstance(norm, example.VllmRMSNorm) and type(norm).forward_cuda is example.RMSNorm.forward_cuda
    x = torch.randn(3, 32)
    torch.testing.assert_close(norm.forward_native(x), torch.nn.functional.rms_norm(x, (32,), eps=1e-5))
    with pytest.raises(TypeError, match=r"RotaryEmbedding.forward_native takes \['positions'"):
        example.ported(example.VllmRMSNorm, RotaryEmbedding)
    command = [sys.executable, str(EXAMPLES / "port_to_vllm.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert float(done.stdout.rsplit(" ")[-1]) < 1e-5
