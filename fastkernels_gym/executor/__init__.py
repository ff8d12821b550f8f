"""EvalRequest in, Evaluation out: an exclusive slot a device, each with a referee in a process of its own."""

from fastkernels_gym.executor.evaluator import Evaluator

__all__ = ["Evaluator"]
