"""Workers on this machine: one exclusive slot a device, requests in the order in which they came."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

from fastkernels_gym.errors import FastKernelsError, HarnessFault, SandboxUnavailable
from fastkernels_gym.executor.wire import encode, read
from fastkernels_gym.player.protocol import Channel, PeerClosed, ProtocolError
from fastkernels_gym.request import Deadlines, EvalRequest
from fastkernels_gym.results import Evaluation, Verdict

_START_TIMEOUT_S = 300.0
_Job = tuple[EvalRequest, "Future[Evaluation]", float]


class LocalExecutor:
    """One worker process, which starts at once, and the thread that feeds it.

    Args:
        device: `cpu` or `cuda`.
        sandboxed: False runs candidates unprotected.
        deadlines: of candidates.
    """

    def __init__(self, device: str, *, sandboxed: bool, deadlines: Deadlines) -> None:
        self._device, self._sandboxed, self._deadlines = device, sandboxed, deadlines
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._worker: _Worker | None = self._new_worker()
        self._aborted = False
        self._thread = threading.Thread(target=self._serve, name=f"slot-{device}", daemon=True)
        self._thread.start()

    def submit(self, request: EvalRequest) -> Future[Evaluation]:
        future: Future[Evaluation] = Future()
        self._jobs.put((request, future, time.monotonic()))
        return future

    def close(self) -> None:
        """Finishes what was submitted, then ends the worker."""
        self._jobs.put(None)
        self._thread.join()

    def abort(self) -> None:
        """Ends the worker at once; what was submitted is cancelled, or fails."""
        self._aborted = True
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None:
                job[1].cancel()
        if (worker := self._worker) is not None:
            worker.kill()
        self.close()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            request, future, submitted = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._evaluate(request, time.monotonic() - submitted))
            except FastKernelsError as error:
                future.set_exception(error)
        if self._worker is not None:
            self._worker.close()

    def _evaluate(self, request: EvalRequest, queue_s: float) -> Evaluation:
        """A worker that dies is replaced and the request tried once more."""
        reason = "the evaluator was stopped"
        for _ in range(2):
            if self._aborted:
                break
            self._worker = self._worker or self._new_worker()
            try:
                self._worker.await_start()
                return self._worker.evaluate(request, queue_s)
            except HarnessFault as error:
                self._worker.close()
                self._worker = None
                if isinstance(error, SandboxUnavailable):
                    raise
                reason = str(error)
        return Evaluation(request.task, Verdict.INFRA_ERROR, reward_kind=request.reward_kind, feedback=reason)

    def _new_worker(self) -> _Worker:
        return _Worker(self._device, self._deadlines, sandboxed=self._sandboxed)


class _Worker:
    """A referee's process. It takes seconds to start, which is waited for at the first request."""

    def __init__(self, device: str, deadlines: Deadlines, *, sandboxed: bool) -> None:
        ours, theirs = socket.socketpair()
        mode = "sandboxed" if sandboxed else "unsandboxed"
        seconds = [str(deadlines.build_s), str(deadlines.run_s)]
        program = [sys.executable, "-P", "-m", "fastkernels_gym.executor.worker"]
        self._process = subprocess.Popen(
            [*program, str(theirs.fileno()), device, mode, *seconds],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is this process's to handle
        )
        theirs.close()
        self._channel, self._started = Channel(ours), False

    def await_start(self) -> None:
        """Until it can judge.

        Raises:
            SandboxUnavailable: if this machine cannot give the sandbox.
            HarnessFault: if it does not come up.
        """
        if self._started:
            return
        answer = self._exchange(None, _START_TIMEOUT_S)
        if "refused" in answer:
            raise SandboxUnavailable(answer["refused"])
        self._started = True

    def evaluate(self, request: EvalRequest, queue_s: float) -> Evaluation:
        return read(self._exchange(encode(request, queue_s), None))

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """Hangs up and waits for the end; one that judged nothing has nothing to end."""
        self._channel.close()
        if not self._started:
            self._process.kill()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _exchange(self, message: dict[str, object] | None, timeout: float | None) -> dict[str, str]:
        try:
            if message is not None:
                self._channel.send(message)
            answer, _ = self._channel.receive(timeout=timeout, limit=1 << 28)
        except (PeerClosed, ProtocolError, TimeoutError) as error:
            raise HarnessFault(f"the evaluator's worker died: {error}") from error
        return answer
