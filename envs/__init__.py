"""The Gymnasium environments: a kernel's source in, the speedup of a real model out."""

from fastkernels_gym.envs.deterministic import DeterministicFastKernelsEnv
from fastkernels_gym.envs.fastkernels import DONE, FastKernelsEnv
from fastkernels_gym.envs.spaces import Source
from fastkernels_gym.envs.vector import FastKernelsVectorEnv

__all__ = ["DONE", "DeterministicFastKernelsEnv", "FastKernelsEnv", "FastKernelsVectorEnv", "Source"]
