"""A transformers chat model in this process: questions that wait together are answered together, as one batch."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastkernels_gym.agent import LLMFault, Message, Usage
from fastkernels_gym.baselines.chat import Reply
from fastkernels_gym.baselines.chat_template import ChatTemplate
from fastkernels_gym.errors import UserError

_LARGEST_BATCH = 16


class LocalChat:
    """Generates with a model of its own, loaded at the first question.

    Args:
        model: a hub id, or a folder as `save_pretrained` writes it, with a chat template.
        device: where it runs; None takes a second GPU where there is one, else the CPU: on the first GPU it would run
            beside kernels that are being timed.
        max_new_tokens: of a reply at the most; None takes 8192, or what the context leaves.
        temperature: 0 takes the likeliest token each time; None takes the model's own, else 1.

    Raises:
        UserError: without a model, or with a folder that holds none.
    """

    def __init__(
        self,
        model: str | None,
        *,
        device: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
    ) -> None:
        if not model:
            raise UserError("agent 'hf' needs --model: a hub id, or a folder that holds a chat model")
        if Path(model).is_dir() and not (Path(model) / "config.json").is_file():
            raise UserError(
                f"agent 'hf' finds no model in {model}: it has no config.json, as save_pretrained writes it"
            )
        self.llm = model
        self._device, self._longest, self._temperature = device, max_new_tokens or 8192, temperature
        self._model: Any = None
        self._tokenizer: Any = None
        self._template: ChatTemplate | None = None
        self._waiting: list[tuple[Sequence[Message], int, asyncio.Future[Reply]]] = []
        self._server: asyncio.Task[None] | None = None

    async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, seed, answer))
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve())
        # A server that fails takes the question with it: its error is the answer.
        await asyncio.wait((answer, self._server), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            await self._server
        return await answer

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.cancel()

    async def _serve(self) -> None:
        """Answers while questions wait; one batch at a time."""
        await asyncio.sleep(0)  # what is asked in this moment goes together
        while self._waiting:
            batch, self._waiting = self._waiting[:_LARGEST_BATCH], self._waiting[_LARGEST_BATCH:]
            questions = [(messages, seed) for messages, seed, _ in batch]
            replies = await asyncio.to_thread(self._answer, questions)
            for (*_, answer), found in zip(batch, replies, strict=True):
                if not answer.done():
                    answer.set_result(found)

    def _answer(self, questions: Sequence[tuple[Sequence[Message], int]]) -> list[Reply]:
        template = self._template or self._load()
        asked = [_Question(template.tokens(messages), seed) for messages, seed in questions]
        room = self._context
        fitting = [question for question in asked if room is None or len(question.prompt) < room]
        found = iter(self._generate(fitting))
        return [
            next(found)
            if room is None or len(question.prompt) < room
            else _failure(
                f"the chat has {len(question.prompt)} tokens and the model's context {room}", LLMFault.CONTEXT_OVERFLOW
            )
            for question in asked
        ]

    @property
    def _context(self) -> int | None:
        """Tokens that the model can read; None where its config names no bound."""
        found: int | None = getattr(self._model.config.get_text_config(), "max_position_embeddings", None)
        return found

    def _generate(self, questions: Sequence[_Question]) -> list[Reply]:
        """Replies to tokenised questions; where memory does not hold the batch, by halves."""
        import torch

        if not questions:
            return []
        try:
            return self._generate_batch(questions)
        except torch.OutOfMemoryError:
            if len(questions) == 1:
                tokens = len(questions[0].prompt)
                return [_failure(f"a chat of {tokens} tokens does not fit into memory", LLMFault.REFUSED)]
        half = len(questions) // 2
        return [*self._generate(questions[:half]), *self._generate(questions[half:])]

    def _generate_batch(self, questions: Sequence[_Question]) -> list[Reply]:
        import torch

        from fastkernels_gym.baselines.sampling import RowLimits

        prompts = [question.prompt for question in questions]
        longest = max(map(len, prompts))
        # Each reply has its own room: a chat near the context's end shortens no other.
        limits = [min(self._longest, (self._context or sys.maxsize) - len(prompt)) for prompt in prompts]
        # Padded on the left, so that every reply begins at the same place.
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.device
        with torch.inference_mode():
            out = self._model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=max(limits),
                pad_token_id=0,
                do_sample=False,
                logits_processor=self._sampling([question.seed for question in questions]),
                stopping_criteria=[RowLimits(longest, limits)],
            )
        rows = zip(prompts, out[:, longest:].tolist(), limits, strict=True)
        return [self._reply(prompt, row[:limit]) for prompt, row, limit in rows]

    def _sampling(self, seeds: Sequence[int]) -> list[Any]:
        """How tokens are chosen: drawn, each row for itself, but for a temperature of 0."""
        from fastkernels_gym.baselines.sampling import RowSampling

        own = self._model.generation_config
        temperature = self._temperature if self._temperature is not None else own.temperature or 1.0
        if temperature == 0:
            return []
        return [RowSampling(seeds, temperature, own.top_k or 0, 1.0 if own.top_p is None else own.top_p)]

    def _reply(self, prompt: Sequence[int], tokens: list[int]) -> Reply:
        end = self._model.generation_config.eos_token_id
        ends = {end} if isinstance(end, int) else set(end or ())
        length = next((at for at, token in enumerate(tokens) if token in ends), None)
        text: str = self._tokenizer.decode(tokens[:length], skip_special_tokens=True)
        made = len(tokens) if length is None else length + 1
        usage = Usage(prompt_tokens=len(prompt), completion_tokens=made, requests=1)
        if not text:
            return Reply("", self.llm, False, usage, (LLMFault.EMPTY_REPLY,), "the reply is empty")
        return Reply(text, self.llm, length is None, usage)

    def _load(self) -> ChatTemplate:
        """Raises UserError where there is no chat model of that name."""
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = self._device or ("cuda:1" if torch.cuda.device_count() > 1 else "cpu")
        print(f"loading {self.llm} on {device}", file=sys.stderr)
        where = str(Path(self.llm).resolve()) if Path(self.llm).is_dir() else self.llm
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(where)
            model: Any = AutoModelForCausalLM.from_pretrained(where, dtype="auto")
            self._model = model.to(device).eval()
        except (OSError, ValueError, RuntimeError, LookupError, TypeError, ImportError, SafetensorError) as error:
            line = " ".join(str(error).split())[:300]
            raise UserError(f"agent 'hf' cannot load {self.llm!r}: {line or type(error).__name__}") from error
        if not tokenizer.chat_template:
            raise UserError(f"{self.llm!r} is no chat model: its tokenizer has no chat template")
        self._tokenizer, self._template = tokenizer, ChatTemplate(tokenizer, self.llm)
        return self._template


@dataclass(frozen=True, slots=True)
class _Question:
    """A chat as tokens, and what its reply is drawn with."""

    prompt: list[int]
    seed: int


def _failure(reason: str, fault: LLMFault) -> Reply:
    return Reply(usage=Usage(requests=1), faults=(fault,), error=reason)
