"""Requests and evaluations as the JSON that executors and workers exchange."""

from __future__ import annotations

import base64
from typing import Any

from fastkernels_gym.errors import UserError
from fastkernels_gym.request import EvalRequest
from fastkernels_gym.results import Evaluation


def encode(request: EvalRequest, queue_s: float) -> dict[str, Any]:
    """The message that asks a worker to judge a request, which has waited `queue_s` seconds."""
    source = request.source.encode("utf-8", "surrogatepass") if isinstance(request.source, str) else request.source
    return {
        "task": request.task,
        "source": base64.b64encode(source).decode(),
        "measure": request.measure,
        "reward": request.reward,
        "budget_s": request.budget_s,
        "request_id": request.request_id,
        "calibrating": request.calibrating,
        "queue_s": queue_s,
    }


def decode(message: dict[str, Any]) -> tuple[EvalRequest, float]:
    """A worker's view of that message."""
    queue_s = message.pop("queue_s")
    return EvalRequest(**{**message, "source": base64.b64decode(message["source"])}), queue_s


def read(answer: dict[str, Any]) -> Evaluation:
    """The evaluation in a worker's answer.

    Raises:
        UserError: what the referee refused.
    """
    if "user_error" in answer:
        raise UserError(answer["user_error"])
    return Evaluation.from_json(answer["evaluation"])
