"""Requests as a server meets them, what an engine makes of them, and what each would have been given alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fastkernels_gym.engine import Engine
from fastkernels_gym.engine.scheduler import Generation

# Of its vocabulary a model ends a sequence by so large a share that a good part of the requests ends early.
_ENDS = 1 / 40


@dataclass(frozen=True, slots=True)
class Request:
    """One client's.

    Args:
        arrival: the pass before which it comes.
        prompt: token ids.
        max_new_tokens: most that it wants.
        ignore_eos: whether an end-of-sequence token does not stop it.
        temperature: 0, or one at which it is drawn by `seed`.
        seed: of its draws.
        patience: passes after which it is aborted, wherever it then is; None waits for the end.
    """

    arrival: int
    prompt: list[int]
    max_new_tokens: int
    ignore_eos: bool
    temperature: float
    seed: int
    patience: int | None


@dataclass(slots=True)
class Answer:
    """What a request was given, and whether it was aborted."""

    request: Request
    generation: Generation
    aborted: bool = False


def drawn_requests(rng: random.Random, count: int, vocabulary: int, longest_answer: int) -> list[Request]:
    """Bursts and pauses; prompts from one token to several chunks; one in five sampled, one in seven impatient."""
    requests, arrival = [], 0
    for seed in range(count):
        arrival += rng.choice((0, 0, int(rng.expovariate(1 / 6))))
        length = rng.randint(49, 90) if rng.random() < 0.1 else rng.randint(1, 48)
        requests.append(
            Request(
                arrival=arrival,
                prompt=[rng.randrange(vocabulary) for _ in range(length)],
                max_new_tokens=rng.randint(1, longest_answer),
                ignore_eos=rng.random() < 0.3,
                temperature=rng.choice((0.0, 0.0, 0.0, 0.0, 0.8)),
                seed=seed,
                patience=rng.randint(0, 12) if rng.random() < 0.15 else None,
            )
        )
    return requests


def busy_engine(module: nn.Module) -> Engine:
    """One with far fewer pages, rows and tokens a pass than its requests want.

    Args:
        module: in float64, so that a batch's rounding does not decide between tokens; its config is given many
            end-of-sequence tokens.
    """
    vocabulary = module.config.vocab_size
    module.config.eos_token_id = random.Random(2).sample(range(vocabulary), int(vocabulary * _ENDS))
    return Engine(module, num_blocks=64, block_size=4, max_batch=16, max_prefill_tokens=40)


def lone_engine(module: nn.Module) -> Engine:
    """One that reads prompts at once and has pages for all that one request wants."""
    return Engine(module, num_blocks=8, max_batch=1)


def served(engine: Engine, requests: Sequence[Request]) -> tuple[list[Answer], Counter[str]]:
    """Runs requests as they arrive, and counts what happened; after every pass each page must be where it belongs."""
    counts: Counter[str] = Counter()
    answers: list[Answer] = []
    under_way: list[Answer] = []
    while len(answers) < len(requests) or engine.busy:
        for request in requests[len(answers) :]:
            if request.arrival > counts["passes"]:
                break
            options = (request.max_new_tokens, request.temperature, request.ignore_eos, request.seed)
            answers.append(Answer(request, engine.add(request.prompt, *options)))
            under_way.append(answers[-1])
        for answer in under_way:
            if answer.request.patience == counts["passes"] - answer.request.arrival:
                engine.abort(answer.generation)
                answer.aborted = True
        under_way = [answer for answer in under_way if not answer.generation.finished]
        before = [answer.generation.computed for answer in under_way]
        longer = engine.step()
        for answer, computed in zip(under_way, before, strict=True):
            counts["preempted"] += answer.generation.computed < computed
            counts["chunks"] += answer.generation.computed > computed and answer.generation not in longer
        held = [block for answer in under_way for block in answer.generation.blocks]
        assert len(set(held)) == len(held) == engine.blocks.num_blocks - engine.blocks.num_free
        counts["most at once"] = max(counts["most at once"], sum(bool(a.generation.blocks) for a in under_way))
        counts["passes"] += 1
    return answers, counts


def alone(engine: Engine, request: Request) -> list[int]:
    """What a request is given when nobody else asks."""
    (tokens,) = engine.generate(
        [request.prompt], request.max_new_tokens, request.temperature, request.ignore_eos, request.seed
    )
    return tokens


def differs(answer: Answer, expected: list[int]) -> bool:
    """Whether a request was given other tokens than alone; one that was aborted was given the first of them."""
    given = answer.generation.generated
    return given != (expected[: len(given)] if answer.aborted else expected)
