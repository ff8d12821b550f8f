"""The engine under traffic: what it gives two thousand requests, held against what it gives each of them alone.

python benchmarks/engine_soak.py

Requests of random lengths come at random while others run, end early, are sampled, are aborted; pages are so few that
sequences are preempted, and prompts are read in chunks. Each answer is compared with that of an engine that serves the
request by itself, and one in four greedy ones also with what the model expects when it reads prompt and answer at once,
without any earlier pass. All is in float64: equality is of every token, and `closest` is how near the likeliest token
and the next ever came.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from provenance import ROOT, facts

from fastkernels_gym.engine import Engine, load_model
from fastkernels_gym.engine.weights import random_weights

sys.path.insert(0, str(ROOT / "tests/engine"))

# Models, and the deviation of their weights with which what they say depends on all that they have read.
MODELS = {"tiny-llama": 0.1, "tiny-qwen3-moe": 0.2, "tiny-gemma3": 0.02}
_LONGEST_ANSWER = 12
_READ_AT_ONCE = 4  # of so many greedy answers one is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="of each model")
    parser.add_argument("--seed", type=int, default=0, help="of the requests")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cpu-engine-soak.json")
    options = parser.parse_args()
    one_thread, spawn = {"initializer": torch.set_num_threads, "initargs": (1,)}, get_context("spawn")
    with ProcessPoolExecutor(len(MODELS), spawn, **one_thread) as pool:
        begun = {name: pool.submit(soak, name, std, options.requests, options.seed) for name, std in MODELS.items()}
        models = {name: run.result() for name, run in begun.items()}
    result = {
        **facts(torch.device("cpu")),
        "dtype": "float64",
        "models": models,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    bad = sum(
        len(found["unlike alone"]) + len(found["unlike read at once"]) + found["pages lost"]
        for found in models.values()
    )
    print(f"{len(models)} models, {options.requests} requests each, {bad} wrong; {options.out}")
    sys.exit(1 if bad else 0)


def soak(name: str, std: float, count: int, seed: int) -> dict[str, Any]:
    from traffic import alone, busy_engine, differs, drawn_requests, lone_engine, served

    module = load_model(name, "cpu", "float64").model
    random_weights(module, torch.Generator().manual_seed(1), std)
    engine, lone = busy_engine(module), lone_engine(module)
    begin = time.monotonic()
    answers, counts = served(
        engine, drawn_requests(random.Random(seed), count, engine.config.vocab_size, _LONGEST_ANSWER)
    )
    together = time.monotonic() - begin
    print(f"{name}: {dict(counts)} in {together:.0f} s", flush=True)
    begin = time.monotonic()
    unlike = [i for i, answer in enumerate(answers) if differs(answer, alone(lone, answer.request))]
    by_themselves = time.monotonic() - begin
    greedy = [i for i, answer in enumerate(answers) if not answer.request.temperature][::_READ_AT_ONCE]
    read = [(i, *reading(lone, answers[i])) for i in greedy]
    said = [answer.generation.generated for answer in answers]
    tokens = sum(map(len, said))
    return {
        "requests": len(answers),
        "tokens": tokens,
        "counts": dict(counts),
        "aborted": sum(answer.aborted for answer in answers),
        "ended by a token": sum(
            bool(answer.generation.stop.intersection(g[-1:])) for answer, g in zip(answers, said, strict=True)
        ),
        "repeated tokens": round(sum(a == b for g in said for a, b in pairwise(g)) / tokens, 3),
        "unlike alone": unlike,
        "read at once": len(read),
        "unlike read at once": [i for i, equal, _ in read if not equal],
        "closest": min(margin for _, _, margin in read),
        "pages lost": engine.blocks.num_blocks - engine.blocks.num_free,
        "seconds together": round(together, 1),
        "seconds alone": round(by_themselves, 1),
    }


def reading(lone: Engine, answer: Any) -> tuple[bool, float]:
    """Whether an answer is what the model expects reading all at once; and by how much it expects that, at least."""
    tokens, begin = answer.generation.tokens, answer.generation.prompt_len
    if len(tokens) == begin:
        return True, float("inf")
    logits = lone.logits([tokens[:-1]])[0][begin - 1 :]
    best, second = logits.topk(2).values.unbind(-1)
    given = logits.gather(-1, torch.tensor(tokens[begin:]).unsqueeze(-1)).squeeze(-1)
    return torch.equal(given, best), float((best - second).min())


if __name__ == "__main__":
    main()
