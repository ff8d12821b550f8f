"""The worker program: one referee behind one socket, JSON in both directions. The same behind every executor.

python -m fastkernels_gym.executor.worker FD DEVICE SANDBOXED
"""

from __future__ import annotations

import base64
import socket
import sys
from typing import Any

from fastkernels_gym.errors import SandboxUnavailable, UserError
from fastkernels_gym.player.protocol import Channel, PeerClosed
from fastkernels_gym.request import Deadlines, EvalRequest
from fastkernels_gym.results import Evaluation


def encode(request: EvalRequest, queue_s: float) -> dict[str, Any]:
    source = request.source.encode("utf-8", "surrogatepass") if isinstance(request.source, str) else request.source
    return {
        "task": request.task,
        "source": base64.b64encode(source).decode(),
        "measure": request.measure,
        "reward": request.reward,
        "budget_s": request.budget_s,
        "request_id": request.request_id,
        "queue_s": queue_s,
    }


def decode(message: dict[str, Any]) -> tuple[EvalRequest, float]:
    queue_s = message.pop("queue_s")
    return EvalRequest(**{**message, "source": base64.b64decode(message["source"])}), queue_s


def main() -> None:
    """Serves requests until the executor hangs up."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    from fastkernels_gym.referee.referee import Referee

    try:
        deadlines = Deadlines(float(sys.argv[4]), float(sys.argv[5]))
        referee = Referee(sys.argv[2], sandboxed=sys.argv[3] == "sandboxed", deadlines=deadlines)
    except SandboxUnavailable as error:
        channel.send({"refused": str(error)})
        return
    channel.send({"ready": referee.device_name})
    try:
        while True:
            message, _ = channel.receive(limit=1 << 28)
            request, queue_s = decode(message)
            try:
                evaluation = referee.evaluate(request, queue_s=queue_s)
            except UserError as error:
                channel.send({"user_error": str(error)})
            else:
                channel.send({"evaluation": evaluation.to_json()})
    except PeerClosed:
        referee.close()


def read(answer: dict[str, Any]) -> Evaluation:
    """The evaluation in a worker's answer.

    Raises:
        UserError: what the referee refused.
    """
    if "user_error" in answer:
        raise UserError(answer["user_error"])
    return Evaluation.from_json(answer["evaluation"])


if __name__ == "__main__":
    main()
