"""A transformers chat model in this process: questions that wait together are answered together, as one batch."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastkernels_gym.agent import LLMFault, Message, Usage
from fastkernels_gym.baselines.chat import Reply
from fastkernels_gym.errors import UserError

_LARGEST_BATCH = 16


class LocalChat:
    """Generates with a model of its own, loaded at the first question.

    Args:
        model: a hub id, or a folder as `save_pretrained` writes it, with a chat template.
        device: where it runs; None takes a second GPU where there is one, else the CPU: on the first GPU it would run
            beside kernels that are being timed.
        max_new_tokens: of a reply at the most; None takes 8192, or what the context leaves.
        temperature: 0 takes the likeliest token each time.

    Raises:
        UserError: without a model.
    """

    def __init__(
        self,
        model: str | None,
        *,
        device: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
    ) -> None:
        if not model:
            raise UserError("agent 'hf' needs --model: a hub id, or a folder that holds a chat model")
        self.llm = model
        self._device, self._longest, self._temperature = device, max_new_tokens or 8192, temperature
        self._model: Any = None
        self._tokenizer: Any = None
        self._waiting: list[tuple[Sequence[Message], asyncio.Future[Reply]]] = []
        self._server: asyncio.Task[None] | None = None

    async def reply(self, messages: Sequence[Message]) -> Reply:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, answer))
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
            replies = await asyncio.to_thread(self._answer, [messages for messages, _ in batch])
            for (_, answer), found in zip(batch, replies, strict=True):
                if not answer.done():
                    answer.set_result(found)

    def _answer(self, chats: Sequence[Sequence[Message]]) -> list[Reply]:
        if self._model is None:
            self._load()
        texts = [
            self._tokenizer.apply_chat_template(list(chat), add_generation_prompt=True, tokenize=False)
            for chat in chats
        ]
        prompts = [self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        room: int = self._model.config.max_position_embeddings
        fitting = [index for index, prompt in enumerate(prompts) if len(prompt) < room]
        found = dict(zip(fitting, self._generate([prompts[index] for index in fitting]), strict=True))
        return [
            found.get(index)
            or _failure(f"the chat has {len(prompt)} tokens and the model's context {room}", LLMFault.REFUSED)
            for index, prompt in enumerate(prompts)
        ]

    def _generate(self, prompts: Sequence[Sequence[int]]) -> list[Reply]:
        """Replies to tokenised prompts; where memory does not hold the batch, by halves."""
        import torch

        if not prompts:
            return []
        try:
            return self._generate_batch(prompts)
        except torch.OutOfMemoryError:
            if len(prompts) == 1:
                return [_failure(f"a chat of {len(prompts[0])} tokens does not fit into memory", LLMFault.REFUSED)]
        half = len(prompts) // 2
        return [*self._generate(prompts[:half]), *self._generate(prompts[half:])]

    def _generate_batch(self, prompts: Sequence[Sequence[int]]) -> list[Reply]:
        import torch

        longest = max(map(len, prompts))
        new = min(self._longest, self._model.config.max_position_embeddings - longest)
        # Padded on the left, so that every reply begins at the same place.
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        draw = {"do_sample": True, "temperature": self._temperature} if self._temperature else {"do_sample": False}
        device = self._model.device
        with torch.inference_mode():
            out = self._model.generate(
                ids.to(device), attention_mask=mask.to(device), max_new_tokens=new, pad_token_id=0, **draw
            )
        return [self._reply(prompt, row) for prompt, row in zip(prompts, out[:, longest:].tolist(), strict=True)]

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

    def _load(self) -> None:
        """Raises UserError where there is no chat model of that name."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = self._device or ("cuda:1" if torch.cuda.device_count() > 1 else "cpu")
        print(f"loading {self.llm} on {device}", file=sys.stderr)
        where = str(Path(self.llm).resolve()) if Path(self.llm).is_dir() else self.llm
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(where)
            model: Any = AutoModelForCausalLM.from_pretrained(where, dtype="auto")
            self._model = model.to(device).eval()
        except (OSError, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split())[:300]
            raise UserError(f"agent 'hf' cannot load {self.llm!r}: {line}") from error
        if not self._tokenizer.chat_template:
            raise UserError(f"{self.llm!r} is no chat model: its tokenizer has no chat template")


def _failure(reason: str, fault: LLMFault) -> Reply:
    return Reply(usage=Usage(requests=1), faults=(fault,), error=reason)
