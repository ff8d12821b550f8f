"""An agent that samples the action space: what an episode looks like, and the floor for every other agent.

python examples/random_agent.py --tasks "L1/*@tiny-llama" --episodes 4
"""

from __future__ import annotations

import argparse

import gymnasium


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="L1/*@tiny-llama", help="a pattern over task ids")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--turns", type=int, default=2, help="turns an episode")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    env = gymnasium.make(
        "fastkernels_gym:FastKernels-v0",
        tasks=args.tasks,
        max_turns=args.turns,
        measure="op",
        budget_s=1.0,
        device=args.device,
    )
    env.action_space.seed(args.seed)
    for episode in range(args.episodes):
        observation, _ = env.reset(seed=args.seed + episode)
        print(f"episode {episode}: {observation['task']}")
        over = False
        total = 0.0
        while not over:
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            over = terminated or truncated
            total += float(reward)
            print(f"  turn {observation['turn']}: {info['verdict'] or 'no candidate'}, reward {reward:.3f}")
        print(f"  return {total:.3f}")
    env.close()


if __name__ == "__main__":
    main()
