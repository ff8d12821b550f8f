"""The public face of the executor: what the CLI, the environments and the adapters use."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal, Self

from fastkernels_gym.catalog import load_task
from fastkernels_gym.errors import UserError
from fastkernels_gym.executor.local import LocalExecutor
from fastkernels_gym.request import Deadlines, EvalRequest
from fastkernels_gym.results import Evaluation, Measure, RewardKind

Device = Literal["auto", "cpu", "cuda"]


class Evaluator:
    """Judges candidates; keeps players, models and baselines warm between them.

    No candidate code and no CUDA runs in this process: the referee has one of its own.

    Args:
        device: `cpu`, `cuda`, or `auto`, which takes the GPU where there is one.
        allow_unsandboxed: runs candidates unprotected where the machine has no namespaces.
        deadlines: seconds that candidates have.

    Raises:
        UserError: on another device, or `cuda` where there is none.
    """

    def __init__(
        self, device: Device = "auto", *, allow_unsandboxed: bool = False, deadlines: Deadlines | None = None
    ) -> None:
        self.device: Literal["cpu", "cuda"] = resolve_device(device)
        self._executor = LocalExecutor(self.device, sandboxed=not allow_unsandboxed, deadlines=deadlines or Deadlines())
        self._closed = False

    def submit(self, request: EvalRequest) -> Future[Evaluation]:
        """Queues a request.

        Raises:
            UserError: if its task does not exist, or the evaluator is closed.
        """
        if self._closed:
            raise UserError("this evaluator is closed")
        load_task(request.task)
        return self._executor.submit(request)

    def evaluate(
        self,
        task: str,
        source: str | bytes,
        *,
        measure: Measure = "e2e",
        reward: RewardKind | None = None,
        budget_s: float = 10.0,
    ) -> Evaluation:
        """Judges one candidate and waits for the result.

        Args:
            task: a task id.
            source: the candidate's source.
            measure: `op`, `ladder` or `e2e`.
            reward: what to pay; None takes `e2e` where it is measured, else `op`.
            budget_s: seconds of timing at the most.

        Raises:
            UserError: on a task, measure or reward that does not exist.
            SandboxUnavailable: if this machine cannot protect itself from the candidate.
        """
        return self.submit(EvalRequest(task, source, measure, reward, budget_s)).result()

    async def evaluate_async(self, task: str, source: str | bytes, **options: Any) -> Evaluation:
        """`evaluate` for asyncio; takes the same options."""
        request = EvalRequest(task, source, **options)
        return await asyncio.wrap_future(self.submit(request))

    def close(self) -> None:
        """Finishes what was submitted and ends the workers."""
        if not self._closed:
            self._closed = True
            self._executor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif not self._closed:
            self._closed = True
            self._executor.abort()


def resolve_device(device: str) -> Literal["cpu", "cuda"]:
    """The device that a name stands for, found without initialising CUDA here.

    Raises:
        UserError: on another name, or `cuda` where there is none.
    """
    import torch

    present = torch.version.cuda is not None and Path("/dev/nvidiactl").exists()
    if device == "auto":
        return "cuda" if present else "cpu"
    if device == "cuda" and not present:
        raise UserError("no CUDA device here: use --device cpu, or auto")
    if device not in ("cpu", "cuda"):
        raise UserError(f"no device {device!r}: there are auto, cpu, cuda")
    return device  # type: ignore[return-value]
