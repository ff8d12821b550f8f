"""The agent `gpt`: an LLM behind any server that speaks OpenAI's chat completions, told what its candidates earned."""

from __future__ import annotations

import asyncio
import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from fastkernels_gym.agent import Proposal, Turn, Usage
from fastkernels_gym.candidate import parse_reply
from fastkernels_gym.errors import UserError
from fastkernels_gym.prompts import fenced, render_feedback, render_system, render_task

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

    from fastkernels_gym.catalog import Task

_LARGEST_REPLY = 1 << 20
_LONGEST_ERROR = 300
# What a server's nonsense raises where the client library trusts it.
_MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def _transport_errors() -> tuple[type[Exception], ...]:
    """Errors of the HTTP library below the client, which differs by release; older ones let a stream's through."""
    library = next(base for base in openai.DefaultAsyncHttpxClient.__mro__ if base.__name__ == "AsyncClient")
    module = sys.modules[library.__module__.partition(".")[0]]
    return module.HTTPError, module.InvalidURL


_TRANSPORT = _transport_errors()
_UNUSABLE: tuple[type[Exception], ...] = (openai.OpenAIError, ValueError, *_TRANSPORT)


class _ServerFault(Exception):
    """The server's answer cannot be a reply."""


@dataclass(slots=True)
class _Reply:
    """A reply as far as it has come."""

    text: str = ""
    llm: str | None = None
    finished: str | None = None
    usage: Usage = Usage()

    def add(self, data: ChatCompletionChunk | ChatCompletion) -> None:
        """Takes one chunk of a stream, or a whole completion."""
        self.llm = str(data.model) if data.model else self.llm
        if data.usage:
            self.usage = _usage(data.usage)
        for choice in data.choices[:1]:
            part = choice.delta if hasattr(choice, "delta") else choice.message
            self.text += part.content or ""
            self.finished = choice.finish_reason or self.finished
        if len(self.text) > _LARGEST_REPLY:
            raise _ServerFault(f"the reply has more than {_LARGEST_REPLY} characters")


class GPTAgent:
    """Asks an LLM, with all earlier turns of the sample in view.

    Args:
        model: the LLM's name, as its server knows it.
        base_url: the server; None takes OPENAI_BASE_URL, else OpenAI's own.
        api_key: None takes OPENAI_API_KEY; a server other than OpenAI's may need none.
        turns: turns of a sample, for the LLM to know how many are left.
        device: `cpu` or `cuda`, what candidates run on.
        retries: of requests that fail with 408, 409, 429, 5xx or no connection; a retry-after is honoured.
        timeout_s: seconds that one reply may take, retries included.

    Raises:
        UserError: without a model or a key.
    """

    name = "gpt"

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        turns: int | None = None,
        device: str | None = None,
        retries: int = 6,
        timeout_s: float = 1800.0,
    ) -> None:
        if not model:
            raise UserError("agent 'gpt' needs --model, the LLM's name")
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)
        if key is None:
            raise UserError("agent 'gpt' needs OPENAI_API_KEY, or --base-url for a server that asks for no key")
        self.llm = model
        self._key, self._turns, self._device, self._timeout_s = key, turns, device, timeout_s
        try:
            self._client = openai.AsyncOpenAI(api_key=key, base_url=base_url, max_retries=retries)
        except _UNUSABLE as error:
            raise UserError(f"agent 'gpt' cannot use {base_url}: {error}") from error

    async def propose(self, task: Task, history: Sequence[Turn]) -> Proposal:
        reply = _Reply()
        try:
            async with asyncio.timeout(self._timeout_s):
                requests = await self._ask(self._messages(task, history), reply)
        except TimeoutError:
            return self._failure(reply, f"no reply within {self._timeout_s:g} s")
        except openai.APIStatusError as error:
            return self._failure(reply, f"HTTP {error.status_code}: {error.message}", _requests(error.request))
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return self._failure(
                reply, f"the connection failed: {cause or type(cause).__name__}", _requests(error.request)
            )
        except openai.APIError as error:
            return self._failure(reply, error.message, _requests(error.request))
        except _TRANSPORT as error:
            return self._failure(reply, f"the connection failed: {error or type(error).__name__}")
        except _ServerFault as error:
            return self._failure(reply, str(error))
        except _MALFORMED as error:
            return self._failure(reply, f"the server's reply is malformed: {type(error).__name__}: {error}")
        usage = _with_requests(reply.usage, requests)
        source = parse_reply(reply.text)
        lacking = None
        if source is None:
            cut = reply.finished == "length"
            lacking = "the reply was cut off at its longest" if cut else "the reply holds no candidate"
        return Proposal(source, reply.text, lacking, reply.llm, usage)

    async def aclose(self) -> None:
        await self._client.close()

    async def _ask(self, messages: list[ChatCompletionMessageParam], reply: _Reply) -> int:
        """Fills in the reply and returns how many requests it took."""
        answer = await self._client.chat.completions.with_raw_response.create(
            model=self.llm, messages=messages, stream=True, stream_options={"include_usage": True}
        )
        if "json" in answer.headers.get("content-type", ""):  # a server that does not stream
            reply.add(ChatCompletion.model_validate_json(await answer.http_response.aread()))
        else:
            async with answer.parse() as stream:
                async for chunk in stream:
                    reply.add(chunk)
        if not reply.finished:
            raise _ServerFault("the server ended its answer before a reply was complete")
        if not reply.text:
            raise _ServerFault(f"the reply is empty: finish reason {reply.finished}")
        return 1 + answer.retries_taken

    def _messages(self, task: Task, history: Sequence[Turn]) -> list[ChatCompletionMessageParam]:
        messages: list[ChatCompletionMessageParam] = [
            {"role": "system", "content": render_system()},
            {"role": "user", "content": render_task(task, device=self._device)},
        ]
        for number, turn in enumerate(history, 1):
            source = turn.proposal.source
            reply = turn.proposal.reply or (fenced(source, "python", _LARGEST_REPLY) if source else "")
            if not reply:  # the server failed: there is nothing to say about it
                continue
            left = self._turns - number if self._turns is not None else None
            feedback = render_feedback(turn.evaluation, error=turn.proposal.error, turns_left=left)
            messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": feedback}]
        return messages

    def _failure(self, reply: _Reply, reason: str, requests: int = 1) -> Proposal:
        """No candidate, by the server's fault; what came of the reply is no reply."""
        text = "".join(" " if unicodedata.category(c).startswith(("C", "Z")) else c for c in reason)
        line = " ".join(text.replace(self._key, "***").split())[:_LONGEST_ERROR]
        return Proposal(None, "", line, reply.llm, _with_requests(reply.usage, requests))


def _requests(request: Any) -> int:
    return 1 + int(request.headers.get("x-stainless-retry-count", 0))


def _usage(found: Any) -> Usage:
    prompt, completion = found.prompt_tokens_details, found.completion_tokens_details
    return Usage(
        prompt_tokens=int(found.prompt_tokens or 0),
        cached_tokens=int((prompt and prompt.cached_tokens) or 0),
        completion_tokens=int(found.completion_tokens or 0),
        reasoning_tokens=int((completion and completion.reasoning_tokens) or 0),
    )


def _with_requests(usage: Usage, requests: int) -> Usage:
    return Usage(
        usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.reasoning_tokens, requests=requests
    )
