"""The engine: token ids in, token ids or logits out."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, kv_cache_shape
from fastkernels_gym.engine.blocks import BlockManager
from fastkernels_gym.engine.graphs import StepGraphs
from fastkernels_gym.engine.ranks import first, least, leave
from fastkernels_gym.engine.sampling import sample
from fastkernels_gym.engine.scheduler import Generation, Part, Scheduler
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
        max_prefill_tokens: most tokens of a prefill; longer prompts are read in chunks.

    Raises:
        ValueError: for a bound below one.
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
        if min(block_size, max_batch, max_prefill_tokens, 1 if num_blocks is None else num_blocks) < 1:
            raise ValueError("num_blocks, block_size, max_batch and max_prefill_tokens must be at least 1")
        weight = next(model.parameters())
        self.model, self.config, self.device, self.dtype = model, _config(model), weight.device, weight.dtype
        self._max_batch, self._max_prefill_tokens = max_batch, max_prefill_tokens
        self.max_len: int = self.config.max_position_embeddings
        with torch.cuda.device_of(weight):
            if num_blocks is None:
                full = max_batch * -(-self.max_len // block_size)
                affordable = _affordable_blocks(self.config, block_size, self.device, self.dtype)
                num_blocks = min(full, least(affordable, self.device))
            self.blocks = BlockManager(num_blocks, block_size)
            self._scheduler = Scheduler(self.blocks, max_batch, max_prefill_tokens)
            self._kv_caches = allocate_kv_caches(self.config, num_blocks, block_size, self.device, self.dtype)
            on_gpu = self.device.type == "cuda"
            self._graphs = StepGraphs(model, self._kv_caches, block_size) if on_gpu else None

    @property
    def busy(self) -> bool:
        """Whether requests are under way."""
        return bool(self._scheduler)

    def add(
        self,
        prompt: Sequence[int],
        max_new_tokens: int = 16,
        temperature: float = 0.0,
        ignore_eos: bool = False,
        seed: int | None = None,
    ) -> Generation:
        """Queues a prompt; `step` continues it, beside those that are under way.

        Args:
            prompt: token ids, at least one.
            max_new_tokens: how many to generate at most.
            temperature: 0 takes the likeliest token, else they are drawn.
            ignore_eos: goes on after an end-of-sequence token.
            seed: of a generator of its own, so that what is drawn does not depend on other requests; None draws with
                torch's global one.

        Returns:
            The request: `generated` grows with each step until it is `finished`.

        Raises:
            ValueError: for a prompt that is empty, holds what is no token, or does not fit with its continuation; and
                for negative numbers.
        """
        generation = self._generation("the prompt", prompt, max_new_tokens, temperature, ignore_eos, seed)
        self._queue(generation)
        return generation

    @torch.no_grad()
    def step(self) -> list[Generation]:
        """Runs a pass: prompts, or chunks of them, or the next token of all that are read.

        Returns:
            The requests that have one more token. None where a prompt is still being read, or nothing is under way.
        """
        parts = self._scheduler.schedule()
        if not parts:
            return []
        with torch.cuda.device_of(self._kv_caches[0][0]):
            batch = self._batch(parts)
            graphs = self._graphs
            logits = graphs.run(batch) if graphs else forward_step(self.model, batch, self._kv_caches)
            rows = [row for row, part in enumerate(parts) if part.count == part.generation.pending]
            read = [parts[row].generation for row in rows]
            tokens = first(sample(logits[rows] if len(rows) < len(parts) else logits, read)).tolist() if rows else []
        for part in parts:
            part.generation.computed += part.count
        for generation, token in zip(read, tokens, strict=True):
            generation.tokens.append(token)
            if token in generation.stop or len(generation.tokens) == generation.prompt_len + generation.max_new_tokens:
                self._scheduler.finish(generation)
        return read

    def abort(self, generation: Generation) -> None:
        """Ends a request and frees its pages; does nothing to one that has finished."""
        self._scheduler.finish(generation)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int = 16,
        temperature: float | Sequence[float] = 0.0,
        ignore_eos: bool = False,
        seed: int | None = None,
    ) -> list[list[int]]:
        """Continues prompts.

        Args:
            prompts: token ids of each, at least one.
            max_new_tokens: how many to generate at most.
            temperature: 0 takes the likeliest token, else they are drawn; of all prompts, or of each.
            ignore_eos: goes on after an end-of-sequence token.
            seed: of the first prompt's draws, the next one's plus one, and so on; None draws with torch's global
                generator.

        Returns:
            The new token ids of each prompt, an end-of-sequence token included.

        Raises:
            ValueError: for a prompt that is empty, holds what is no token, or does not fit with its continuation; for
                negative numbers; and for temperatures that are not as many as prompts.
        """
        heats = [temperature] * len(prompts) if isinstance(temperature, int | float) else temperature
        if len(heats) != len(prompts):
            raise ValueError(f"{len(heats)} temperatures are given for {len(prompts)} prompts")
        seeds = [None] * len(prompts) if seed is None else range(seed, seed + len(prompts))
        generations = [
            self._generation(f"prompt {index}", prompt, max_new_tokens, heat, ignore_eos, own)
            for index, (prompt, heat, own) in enumerate(zip(prompts, heats, seeds, strict=True))
        ]
        try:
            for generation in generations:
                self._queue(generation)
            for generation in generations:
                while not generation.finished:
                    self.step()
        finally:
            for generation in generations:
                self.abort(generation)
        return [generation.generated for generation in generations]

    @torch.no_grad()
    def logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """What the model expects after each token of each prompt.

        Requests under way lend their pages, and read their tokens again afterwards.

        Args:
            prompts: token ids of each, at least one.

        Returns:
            (len(prompt), vocabulary) float32 for each, on the model's device.

        Raises:
            ValueError: for a prompt that is empty, holds what is no token, or does not fit.
        """
        generations = [self._generation(f"prompt {i}", prompt) for i, prompt in enumerate(prompts)]
        found: dict[Generation, list[torch.Tensor]] = {generation: [] for generation in generations}
        self._scheduler.preempt_all()
        scheduler = Scheduler(self.blocks, self._max_batch, self._max_prefill_tokens)
        try:
            for generation in generations:
                scheduler.add(generation)
            with torch.cuda.device_of(self._kv_caches[0][0]):
                while scheduler:
                    parts = scheduler.schedule()
                    rows = forward_logits(self.model, self._batch(parts), self._kv_caches).float()
                    for part, chunk in zip(parts, rows.split([part.count for part in parts]), strict=True):
                        found[part.generation].append(chunk)
                        part.generation.computed += part.count
                        if not part.generation.pending:
                            scheduler.finish(part.generation)
        finally:
            for generation in generations:
                scheduler.finish(generation)
        return [chunks[0] if len(chunks) == 1 else torch.cat(chunks) for chunks in found.values()]

    def close(self) -> None:
        """Drops the graphs and leaves the ranks' group; needed before the end of a process that shares its model."""
        self._graphs = None  # first: NCCL waits for graphs that hold its operations
        gc.collect()
        leave()

    def _batch(self, parts: Sequence[Part]) -> Batch:
        generations = [part.generation for part in parts]
        width = max(len(generation.blocks) for generation in generations)
        table = [generation.blocks + [0] * (width - len(generation.blocks)) for generation in generations]
        ids = [
            token
            for part in parts
            for token in part.generation.tokens[part.generation.computed : part.generation.computed + part.count]
        ]
        return Batch.build(
            [part.count for part in parts],
            [generation.computed for generation in generations],
            torch.tensor(table, dtype=torch.int32),
            self.blocks.block_size,
            self.device,
            torch.tensor(ids, dtype=torch.int64),
        )

    def _queue(self, generation: Generation) -> None:
        if generation.max_new_tokens:
            self._scheduler.add(generation)
        else:
            generation.finished = True

    def _generation(
        self,
        name: str,
        prompt: Sequence[int],
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        ignore_eos: bool = True,
        seed: int | None = None,
    ) -> Generation:
        if max_new_tokens < 0 or not 0 <= temperature < float("inf"):
            raise ValueError(
                f"max_new_tokens={max_new_tokens} and temperature={temperature} must be finite and not negative"
            )
        if not prompt:
            raise ValueError(f"{name} is empty")
        if not all(0 <= token < self.config.vocab_size for token in prompt):
            raise ValueError(f"{name} holds token ids outside 0 to {self.config.vocab_size - 1}")
        length = len(prompt) + max(0, max_new_tokens - 1)  # the last token is never read
        room = min(self.max_len, self.blocks.num_blocks * self.blocks.block_size)
        if length > room:
            raise ValueError(f"{name} comes to {length} tokens; there is room for {room}")
        stop = frozenset[int]() if ignore_eos else _end_tokens(self.config)
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        return Generation(list(prompt), len(prompt), max_new_tokens, temperature, stop, generator)


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
