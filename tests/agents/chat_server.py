"""A server on the loopback interface that speaks chat completions, and the answers that it can give."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 40},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


@dataclass
class Answer:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None  # bytes said to come, where that is not the truth
    after_s: float = 0.0


class ChatServer(ThreadingHTTPServer):
    """Gives its answers in order, the last one for ever, or what `reply` makes of a request; keeps the requests.

    Within it, it serves.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, reply: Callable[[dict[str, Any]], Answer] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = []
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    def next_answer(self, request: dict[str, Any]) -> Answer:
        if self.reply is not None:
            return self.reply(request)
        with self.lock:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/chat/completions"
        request = json.loads(body)
        self.server.requests.append(request)
        self.server.keys.append(self.headers.get("authorization"))
        answer = self.server.next_answer(request)
        time.sleep(answer.after_s)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(answer.promised or len(answer.body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # an asker who gave up
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        pass


def chunk(**changes: Any) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "served-llm", "choices": [], **changes}


def text_chunk(text: str | None, finish: str | None = None) -> dict[str, Any]:
    return chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


def events(chunks: Iterable[Any], *, done: bool = True) -> Answer:
    lines = [f"data: {item if isinstance(item, str) else json.dumps(item)}\n\n" for item in chunks]
    body = "".join(lines) + ("data: [DONE]\n\n" if done else "")
    return Answer(body.encode(), headers={"content-type": "text/event-stream"})


def streamed(reply: str, finish: str = "stop") -> Answer:
    parts = [reply[at : at + 7] for at in range(0, len(reply), 7)]
    return events([*map(text_chunk, parts), text_chunk(None, finish), chunk(usage=USAGE)])


def plain(reply: str, model: str = "served-llm") -> Answer:
    message = {"role": "assistant", "content": reply}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json_answer(chunk(object="chat.completion", model=model, choices=choices, usage=USAGE))


def json_answer(document: Any, status: int = 200, **headers: str) -> Answer:
    body = document if isinstance(document, str) else json.dumps(document)
    return Answer(body.encode(), status, {"content-type": "application/json", **headers})


def failure(status: int, message: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return json_answer({"error": {"message": message}}, status, **named)
