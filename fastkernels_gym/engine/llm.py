"""The engine: token ids in, token ids or logits out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, kv_cache_shape
from fastkernels_gym.engine.blocks import BlockManager
from fastkernels_gym.engine.graphs import DecodeGraphs
from fastkernels_gym.engine.scheduler import Generation, Scheduler
from fastkernels_gym.engine.step import forward_logits, forward_step

# Of the memory that is free once the weights are there; the rest is for activations and for everybody else.
_GPU_SHARE, _CPU_SHARE = 0.5, 1 / 32


class Engine:
    """Serves a model with weights: ragged prefills and decodes over a paged KV cache, batched continuously.

    Args:
        model: an L4 operator.
        num_blocks: pages of the KV cache; None takes what a share of the free memory holds, and no more than
            `max_batch` sequences of full length need.
        block_size: tokens of a page.
        max_batch: most sequences of a pass.
        max_prefill_tokens: most tokens of a prefill, unless a single sequence has more.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_blocks: int | None = None,
        block_size: int = 16,
        max_batch: int = 64,
        max_prefill_tokens: int = 8192,
    ) -> None:
        weight = next(model.parameters())
        self.model, self.config, self.device, self.dtype = model, _config(model), weight.device, weight.dtype
        self._max_batch, self._max_prefill_tokens = max_batch, max_prefill_tokens
        self.max_len: int = self.config.max_position_embeddings
        with torch.cuda.device_of(weight):
            if num_blocks is None:
                full = max_batch * -(-self.max_len // block_size)
                num_blocks = min(full, _affordable_blocks(self.config, block_size, self.device, self.dtype))
            self.blocks = BlockManager(num_blocks, block_size)
            self._kv_caches = allocate_kv_caches(self.config, num_blocks, block_size, self.device, self.dtype)
            on_gpu = self.device.type == "cuda"
            self._graphs = DecodeGraphs(model, self._kv_caches, block_size) if on_gpu else None

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int = 16,
        temperature: float = 0.0,
        ignore_eos: bool = False,
    ) -> list[list[int]]:
        """Continues prompts.

        Args:
            prompts: token ids of each, at least one.
            max_new_tokens: how many to generate at most.
            temperature: 0 takes the likeliest token, else they are drawn, with torch's global generator.
            ignore_eos: goes on after an end-of-sequence token.

        Returns:
            The new token ids of each prompt, an end-of-sequence token included.

        Raises:
            ValueError: for a prompt that is empty, holds what is no token, or does not fit with its continuation; and
                for negative numbers.
        """
        if max_new_tokens < 0 or not 0 <= temperature < float("inf"):
            raise ValueError(
                f"max_new_tokens={max_new_tokens} and temperature={temperature} must be finite and not negative"
            )
        self._check(prompts, max_new_tokens)
        generations = [Generation(list(prompt), len(prompt)) for prompt in prompts]
        if max_new_tokens == 0:
            return [[] for _ in prompts]
        stop = frozenset() if ignore_eos else _end_tokens(self.config)
        scheduler = Scheduler(generations, self.blocks, self._max_batch, self._max_prefill_tokens)
        try:
            with torch.cuda.device_of(self._kv_caches[0][0]):
                while scheduler:
                    batch, prefill = scheduler.schedule()
                    tokens = _sample(self._pass(batch, prefill=prefill), temperature)
                    for generation, token in zip(batch, tokens, strict=True):
                        generation.tokens.append(token)
                        if token in stop or len(generation.tokens) - generation.prompt_len == max_new_tokens:
                            scheduler.finish(generation)
        finally:
            scheduler.abort()
        return [generation.generated for generation in generations]

    @torch.no_grad()
    def logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """What the model expects after each token of each prompt.

        Args:
            prompts: token ids of each, at least one.

        Returns:
            (len(prompt), vocabulary) float32 for each, on the model's device.

        Raises:
            ValueError: for a prompt that is empty, holds what is no token, or does not fit.
        """
        self._check(prompts, 0)
        generations = [Generation(list(prompt), len(prompt)) for prompt in prompts]
        scheduler = Scheduler(generations, self.blocks, self._max_batch, self._max_prefill_tokens)
        found: dict[int, torch.Tensor] = {}
        try:
            with torch.cuda.device_of(self._kv_caches[0][0]):
                while scheduler:
                    batch, _ = scheduler.schedule()
                    rows = forward_logits(self.model, self._batch(batch, prefill=True), self._kv_caches).float()
                    lengths = [len(generation.tokens) for generation in batch]
                    for generation, part in zip(batch, rows.split(lengths), strict=True):
                        found[id(generation)] = part
                        scheduler.finish(generation)
        finally:
            scheduler.abort()
        return [found[id(generation)] for generation in generations]

    def _pass(self, generations: Sequence[Generation], *, prefill: bool) -> torch.Tensor:
        """Logits of each sequence's last token, (batch, vocabulary)."""
        batch = self._batch(generations, prefill=prefill)
        if self._graphs is None or prefill:
            return forward_step(self.model, batch, self._kv_caches)
        return self._graphs.run(batch)

    def _batch(self, generations: Sequence[Generation], *, prefill: bool) -> Batch:
        """All tokens of each sequence, or the last one."""
        lengths = [len(generation.tokens) for generation in generations]
        queries = lengths if prefill else [1] * len(lengths)
        contexts = [length - query for length, query in zip(lengths, queries, strict=True)]
        width = max(len(generation.blocks) for generation in generations)
        table = [generation.blocks + [0] * (width - len(generation.blocks)) for generation in generations]
        ids = [token for g, context in zip(generations, contexts, strict=True) for token in g.tokens[context:]]
        return Batch.build(
            queries,
            contexts,
            torch.tensor(table, dtype=torch.int32),
            self.blocks.block_size,
            self.device,
            torch.tensor(ids, dtype=torch.int64),
        )

    def _check(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        room = min(self.max_len, self.blocks.num_blocks * self.blocks.block_size)
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise ValueError(f"prompt {index} is empty")
            if not all(0 <= token < self.config.vocab_size for token in prompt):
                raise ValueError(f"prompt {index} holds token ids outside 0 to {self.config.vocab_size - 1}")
            length = len(prompt) + max(0, max_new_tokens - 1)  # the last token is never read
            if length > room:
                raise ValueError(f"prompt {index} comes to {length} tokens; there is room for {room}")


def _config(model: nn.Module) -> Any:
    return model.config


def _affordable_blocks(config: Any, block_size: int, device: torch.device, dtype: torch.dtype) -> int:
    """Pages that a share of the free memory holds; at least one."""
    page = 2 * config.num_hidden_layers * torch.Size(kv_cache_shape(config, 1, block_size)).numel() * dtype.itemsize
    if device.type == "cuda":
        room = _GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    else:
        room = _CPU_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(max(1, room // page))


def _end_tokens(config: Any) -> frozenset[int]:
    """The config's end-of-sequence tokens: none, one or several."""
    end = config.eos_token_id
    return frozenset(() if end is None else (end,) if isinstance(end, int) else end)


def _sample(logits: torch.Tensor, temperature: float) -> list[int]:
    """One token a row of (batch, vocabulary)."""
    if temperature > 0:
        scores = logits.float()
        # Shifted first: divided by a small temperature, the largest alone stays finite.
        scores = ((scores - scores.amax(-1, keepdim=True)) / temperature).softmax(-1)
        # The largest of p / Exp(1) is a draw from p, without the host's waiting for a sum.
        logits = scores / torch.empty_like(scores).exponential_().clamp_min_(1e-10)
    tokens: list[int] = logits.argmax(-1).tolist()
    return tokens
