"""Ranks: processes that share one model, make the same calls and are given the same answers."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from fastkernels_gym.tasks.baseline.parallel_state import get_tp_group, get_tp_size


def join(tp: int, device: torch.device) -> torch.device:
    """Makes this process one of `tp` ranks, over NCCL on GPUs and gloo on CPUs; joins a group once.

    Args:
        tp: how many there are; 1 joins nothing.
        device: a GPU without a number is that of the rank's place on its host.

    Returns:
        The rank's device.

    Raises:
        ValueError: if the processes were not started, or are not so many.
    """
    if not dist.is_initialized() and tp > 1:
        if os.environ.get("WORLD_SIZE") != str(tp):
            raise ValueError(f"tp={tp} needs {tp} processes: start the program with torchrun --nproc-per-node {tp}")
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) if device.index is None else device.index)
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=device)  # connects now: not while a graph is captured
        else:
            dist.init_process_group("gloo")
    if get_tp_size() != tp:
        raise ValueError(f"tp={tp}, but this process is one of {get_tp_size()} ranks")
    return device


def least(number: int, device: torch.device) -> int:
    """The least of all ranks' numbers."""
    if get_tp_size() == 1:
        return number
    numbers = torch.tensor(number, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MIN, group=get_tp_group())
    return int(numbers)


def first(tokens: torch.Tensor) -> torch.Tensor:
    """Rank 0's tokens: what the others drew may differ."""
    if get_tp_size() > 1:
        dist.broadcast(tokens, 0, group=get_tp_group())
    return tokens


def leave() -> None:
    """Leaves the ranks' group."""
    if get_tp_size() > 1:
        dist.destroy_process_group()
