"""The worker program: one referee behind one socket, JSON in both directions. The same behind every executor.

python -m fastkernels_gym.executor.worker FD DEVICE SANDBOXED
"""

from __future__ import annotations

import socket
import sys

from fastkernels_gym.errors import SandboxUnavailable, UserError
from fastkernels_gym.executor.wire import decode
from fastkernels_gym.player.protocol import Channel, PeerClosed
from fastkernels_gym.request import Deadlines


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


if __name__ == "__main__":
    main()
