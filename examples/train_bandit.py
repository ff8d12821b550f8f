"""The smallest learner: a UCB bandit finds the block size that makes a kernel template fast.

Every arm is a block size of one template for SiluAndMul. An episode is one turn: the bandit picks an arm, the
environment judges the kernel on the model's real shapes and pays its measured speedup. Nothing is known beforehand; the
mean reward rises as the bandit learns which arms pay. The learning curve is saved as a picture (matplotlib is in the
`[dev]` extra).

    python examples/train_bandit.py --episodes 50 --out bandit.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
import numpy as np

BLOCKS = (8, 16, 32, 64, 128, 1024)
TEMPLATE = """\
import torch
from torch import nn
from torch.nn import functional as F

BLOCK = {block}


class SiluAndMul(nn.Module):
    def __init__(self, *, compile_native: bool = True) -> None:
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1] // 2
        out = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
        for start in range(0, width, BLOCK):
            stop = min(start + BLOCK, width)
            gate, up = x[..., start:stop], x[..., width + start : width + stop]
            torch.mul(F.silu(gate), up, out=out[..., start:stop])
        return out
"""


@dataclass
class Bandit:
    """UCB1: plays every arm once, then the one whose mean reward plus uncertainty is highest.

    Args:
        arms: how many arms.
        exploration: how many standard errors' worth of optimism; rewards here lie between 0 and about 1.
        rng: the order in which untried arms are tried.
    """

    arms: int
    rng: np.random.Generator
    exploration: float = 0.3
    counts: np.ndarray = field(init=False)
    means: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.arms, dtype=np.int64)
        self.means = np.zeros(self.arms)

    def choose(self) -> int:
        untried = np.flatnonzero(self.counts == 0)
        if len(untried):
            return int(self.rng.choice(untried))
        bonus = self.exploration * np.sqrt(math.log(self.counts.sum()) / self.counts)
        return int(np.argmax(self.means + bonus))

    def learn(self, arm: int, reward: float) -> None:
        self.counts[arm] += 1
        self.means[arm] += (reward - self.means[arm]) / self.counts[arm]


def train(env: gymnasium.Env, bandit: Bandit, blocks: Sequence[int], episodes: int) -> list[tuple[int, float]]:
    """Plays single-turn episodes; returns (block size, reward) of each."""
    history = []
    for episode in range(episodes):
        env.reset()
        arm = bandit.choose()
        _, reward, _, truncated, info = env.step(TEMPLATE.format(block=blocks[arm]))
        if not truncated:  # a truncated episode is the machine's fault and teaches nothing
            bandit.learn(arm, float(reward))
            history.append((blocks[arm], float(reward)))
        print(
            f"episode {episode + 1:3d}: block {blocks[arm]:5d}  {info['verdict']:>8}  reward {float(reward):.3f}",
            flush=True,
        )
    return history


def moving_average(rewards: list[float], window: int = 10) -> list[float]:
    """The mean of the last `window` rewards, at every episode."""
    return [float(np.mean(rewards[max(0, i + 1 - window) : i + 1])) for i in range(len(rewards))]


def plot(history: list[tuple[int, float]], path: Path) -> None:
    """Saves the learning curve: every reward, coloured by its block size, and the moving average."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rewards = [reward for _, reward in history]
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for block in BLOCKS:
        episodes = [i + 1 for i, (played, _) in enumerate(history) if played == block]
        axes.scatter(episodes, [rewards[i - 1] for i in episodes], label=f"block {block}", s=24)
    axes.plot(range(1, len(rewards) + 1), moving_average(rewards), color="black", label="mean of the last 10")
    axes.set(xlabel="episode", ylabel="reward: operator speedup", title="A bandit learns a block size")
    axes.legend(loc="lower right")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--task", default="L1/silu_and_mul@tiny-llama")
    parser.add_argument("--budget", type=float, default=0.3, help="seconds of timing an episode")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bandit.png"))
    args = parser.parse_args()

    env = gymnasium.make(
        "fastkernels_gym:FastKernels-v0",
        tasks=args.task,
        measure="op",
        reward="op",
        budget_s=args.budget,
        device=args.device,
    )
    bandit = Bandit(len(BLOCKS), np.random.default_rng(args.seed))
    history = train(env, bandit, BLOCKS, args.episodes)
    env.close()

    rewards = [reward for _, reward in history]
    first, last = np.mean(rewards[:10]), np.mean(rewards[-10:])
    best = BLOCKS[int(np.argmax(bandit.means))]
    print(f"mean reward {first:.3f} over the first 10 episodes, {last:.3f} over the last 10; best block size {best}")
    plot(history, args.out)
    print(f"learning curve: {args.out}")


if __name__ == "__main__":
    main()
