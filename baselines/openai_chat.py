"""An LLM behind any server that speaks OpenAI's chat completions, and all that can go wrong with one.

The client library's own retries are off: it retries what fails before a stream begins, and says nothing of it. Here
every request that fails is asked again where that can help, and every fault is counted.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from fastkernels_gym.agent import LLMFault, Message, Usage
from fastkernels_gym.baselines.chat import LARGEST_REPLY, Reply
from fastkernels_gym.baselines.pace import Pace
from fastkernels_gym.errors import UserError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

_LONGEST_ERROR = 300
_LONGEST_WAIT_S = 120.0
# What a server's nonsense raises where the client library trusts it.
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
_FINAL = (LLMFault.REFUSED, LLMFault.CONTENT_FILTER, LLMFault.OVERSIZED, LLMFault.CONTEXT_OVERFLOW)
_LACKING = ("insufficient_quota", "billing_hard_limit_reached")
# OpenAI's code; vLLM's, SGLang's and llama.cpp's words for the same.
_OVERFLOW_CODE = "context_length_exceeded"
_OVERFLOW_WORDS = ("maximum context length", "model's context length", "exceeds the available context size")


def _http_library() -> Any:
    """The HTTP library below the client, which differs by release; older clients let its errors through."""
    library = next(base for base in openai.DefaultAsyncHttpxClient.__mro__ if base.__name__ == "AsyncClient")
    return sys.modules[library.__module__.partition(".")[0]]


_HTTP = _http_library()
_TRANSPORT: tuple[type[Exception], ...] = (_HTTP.HTTPError, _HTTP.InvalidURL)
_UNUSABLE: tuple[type[Exception], ...] = (openai.OpenAIError, ValueError, *_TRANSPORT)


class _Failed(Exception):
    """A request that gave no reply: the fault, why in one line, and when the server wants to be asked again."""

    def __init__(self, fault: LLMFault, reason: str, after_s: float | None = None) -> None:
        super().__init__(reason)
        self.fault, self.after_s = fault, after_s


@dataclass(slots=True)
class _Answer:
    """A reply as far as it has come."""

    text: str = ""
    llm: str | None = None
    finished: str | None = None
    choices: bool = False
    usage: Usage = Usage(requests=1)

    def add(self, data: ChatCompletionChunk | ChatCompletion) -> None:
        """Takes one chunk of a stream, or a whole completion."""
        self.llm = str(data.model) if data.model else self.llm
        if data.usage:
            self.usage = _usage(data.usage)
        for choice in data.choices[:1]:
            part = choice.delta if hasattr(choice, "delta") else choice.message
            self.choices = True
            self.text += part.content or ""
            self.finished = choice.finish_reason or self.finished
        if len(self.text) > LARGEST_REPLY:
            raise _Failed(LLMFault.OVERSIZED, f"the reply has more than {LARGEST_REPLY} characters")

    def check(self) -> None:
        """Raises _Failed where this is no complete reply."""
        if self.finished == "content_filter":
            raise _Failed(LLMFault.CONTENT_FILTER, "the server's content filter stopped the reply")
        if not self.choices:
            raise _Failed(LLMFault.EMPTY_CHOICES, "the server ended its answer before a reply was complete: no choices")
        if not self.finished:
            raise _Failed(LLMFault.TRUNCATED, "the server ended its answer before a reply was complete")
        if not self.text:
            raise _Failed(LLMFault.EMPTY_REPLY, f"the reply is empty: finish reason {self.finished}")


_EXPECTED: tuple[type[Exception], ...] = (openai.OpenAIError, _Failed, *_TRANSPORT, *_MALFORMED)


@dataclass(slots=True)
class _Attempts:
    """What a question has cost so far."""

    llm: str | None = None
    usage: Usage = Usage()
    faults: tuple[LLMFault, ...] = ()

    def book(self, answer: _Answer) -> None:
        self.llm = answer.llm or self.llm
        self.usage += answer.usage


class OpenAIChat:
    """Asks a server over HTTP, streaming where it can.

    Args:
        model: the LLM's name, as its server knows it.
        base_url: the server; None takes OPENAI_BASE_URL, else OpenAI's own.
        api_key: None takes OPENAI_API_KEY; a server other than OpenAI's may need none.
        pace: how fast to ask; None for no limit.
        reply_tokens: tokens of a reply at the most, as far as the server heeds it; None leaves it to the server.
        temperature: of sampling; None leaves it to the server.
        seeded: whether to send each question's seed, which not every server takes.
        retries: of requests that fail with 408, 409, 429, 5xx, no connection or a broken answer.
        backoff_s: seconds before the first retry where the server names none; doubled for each one that follows.
        request_s: seconds that a server may be silent.
        timeout_s: seconds that one reply may take from its first request on, retries included.

    Raises:
        UserError: without a model or a key.
    """

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        pace: Pace | None = None,
        reply_tokens: int | None = None,
        temperature: float | None = None,
        seeded: bool = False,
        retries: int = 6,
        backoff_s: float = 1.0,
        request_s: float = 600.0,
        timeout_s: float = 1800.0,
    ) -> None:
        if not model:
            raise UserError("an agent that asks an LLM needs --model, the LLM's name")
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)
        if key is None:
            raise UserError("OPENAI_API_KEY is not set; name a server that asks for no key with --base-url")
        self.llm = model
        self._key, self._pace, self._retries = key, pace or Pace(), retries
        options = {"max_completion_tokens": reply_tokens, "temperature": temperature}
        self._options = {name: value for name, value in options.items() if value is not None}
        self._seeded = seeded
        self._backoff_s, self._timeout_s = backoff_s, timeout_s
        try:
            self._client = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=0, timeout=request_s)
        except _UNUSABLE as error:
            raise UserError(f"cannot use the server {base_url}: {error}") from error

    async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        attempts = _Attempts()
        await self._pace.request()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._persist(messages, seed, attempts)
        except TimeoutError:
            attempts.faults += (LLMFault.TIMEOUT,)
            return self._failure(attempts, f"no reply within {self._timeout_s:g} s")
        except _Failed as failed:
            return self._failure(attempts, str(failed))
        return Reply(answer.text, attempts.llm, answer.finished == "length", attempts.usage, attempts.faults)

    async def aclose(self) -> None:
        await self._client.close()

    async def _persist(self, messages: Sequence[Message], seed: int, attempts: _Attempts) -> _Answer:
        """Asks until there is a reply, or no hope of one."""
        for tried in range(self._retries + 1):
            if tried:
                await self._pace.request()
            answer = _Answer()
            try:
                await self._ask(messages, seed, answer)
                return answer
            except _EXPECTED as error:
                failed = _failed(error)
                attempts.faults += (failed.fault,)
                if tried == self._retries or failed.fault in _FINAL:
                    raise failed from error
            finally:
                attempts.book(answer)
                self._pace.used(answer.usage.tokens)
            await asyncio.sleep(self._wait_s(tried) if failed.after_s is None else failed.after_s)
        raise AssertionError("the last attempt returns or raises")

    async def _ask(self, messages: Sequence[Message], seed: int, answer: _Answer) -> None:
        """One request."""
        options: dict[str, Any] = {**self._options, "seed": seed} if self._seeded else self._options
        response = await self._client.chat.completions.with_raw_response.create(
            model=self.llm,
            messages=cast("list[ChatCompletionMessageParam]", list(messages)),
            stream=True,
            stream_options={"include_usage": True},
            **options,
        )
        if "json" in response.headers.get("content-type", ""):  # a server that does not stream
            answer.add(ChatCompletion.model_validate_json(await response.http_response.aread()))
        else:
            async with response.parse() as stream:
                async for chunk in stream:
                    answer.add(chunk)
        answer.check()

    def _wait_s(self, tried: int) -> float:
        """Exponential, and random so that hundreds of requests refused together do not come back together."""
        return min(self._backoff_s * 2.0**tried, _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)

    def _failure(self, attempts: _Attempts, reason: str) -> Reply:
        """No reply, by the server's fault; what came of one is none."""
        text = "".join(" " if unicodedata.category(c).startswith(("C", "Z")) else c for c in reason)
        line = " ".join(text.replace(self._key, "***").split())[:_LONGEST_ERROR]
        return Reply("", attempts.llm, False, attempts.usage, attempts.faults, line)


def _failed(error: Exception) -> _Failed:
    """What a failure of the client library amounts to."""
    match error:
        case _Failed():
            return error
        case openai.APIStatusError():
            line = f"HTTP {error.status_code}: {error.message}"
            return _Failed(_status_fault(error), line, _retry_after_s(error.response.headers))
        case openai.APIConnectionError():
            fault = LLMFault.TIMEOUT if isinstance(error, openai.APITimeoutError) else LLMFault.CONNECTION
            cause = error.__cause__ or error
            return _Failed(fault, f"the connection failed: {cause or type(cause).__name__}")
        case openai.APIError():
            return _Failed(LLMFault.SERVER_ERROR, error.message)
        case _ if isinstance(error, _HTTP.TimeoutException):
            return _Failed(LLMFault.TIMEOUT, "the connection failed: the server fell silent")
        case _ if isinstance(error, _TRANSPORT):
            return _Failed(LLMFault.TRUNCATED, f"the connection failed: {error or type(error).__name__}")
        case _:
            return _Failed(LLMFault.INVALID, f"the server's reply is malformed: {type(error).__name__}: {error}")


def _status_fault(error: openai.APIStatusError) -> LLMFault:
    if error.code == "content_filter":
        return LLMFault.CONTENT_FILTER
    if error.code == _OVERFLOW_CODE or (error.status_code == 400 and any(w in error.message for w in _OVERFLOW_WORDS)):
        return LLMFault.CONTEXT_OVERFLOW
    if error.status_code == 429 and error.code not in _LACKING:
        return LLMFault.RATE_LIMITED
    return LLMFault.SERVER_ERROR if error.status_code in (408, 409) or error.status_code >= 500 else LLMFault.REFUSED


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait; None where it names none that anyone would wait."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= seconds <= _LONGEST_WAIT_S:
            return seconds
    return None


def _usage(found: Any) -> Usage:
    prompt, completion = found.prompt_tokens_details, found.completion_tokens_details
    return Usage(
        prompt_tokens=int(found.prompt_tokens or 0),
        cached_tokens=int((prompt and prompt.cached_tokens) or 0),
        completion_tokens=int(found.completion_tokens or 0),
        reasoning_tokens=int((completion and completion.reasoning_tokens) or 0),
        requests=1,
    )
