"""Passes of a model with an overlay in place, and which modules ran the candidate. For fresh interpreters only."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from fastkernels_gym.player.overlay import install

BLOCK_SIZE = 16
DEVICE = torch.device("cpu")


def run(job: dict[str, Any]) -> str:
    """Builds the job's model and runs its phases.

    Returns:
        JSON: `replaced`, the paths of modules that are the candidate's; `missed`, those of modules that only have the
        same name; `phases`, for each phase `calls` (calls of candidate's modules by path) and `nested` (calls of
        them inside calls of each user, the user's own not counted).
    """
    overlay = install(job["module"], job["classes"], Path(job["candidate"]))
    model = _build(job)
    paths = {module: path for path, module in model.named_modules()}
    calls: list[nn.Module] = sys.modules[overlay.replaced()[0].__module__].CALLS  # type: ignore[attr-defined]
    phases = []
    for phase in job["phases"]:
        nested: Counter[str] = Counter()
        handles = [h for user in job["users"] for h in _listen(model, user, calls, nested)]
        calls.clear()
        _step(model, phase)
        phases.append({"calls": Counter(paths[module] for module in calls), "nested": nested})
        for handle in handles:
            handle.remove()
    named = {path: module for module, path in paths.items() if type(module).__name__ in job["classes"]}
    replaced = [path for path, module in named.items() if type(module) in overlay.replaced()]
    return json.dumps({"replaced": replaced, "missed": sorted(named.keys() - set(replaced)), "phases": phases})


def _build(job: dict[str, Any]) -> nn.Module:
    from fastkernels_gym.engine.build import bind_parameters, build_model

    config = AutoConfig.for_model(**job["config"])
    model_class = getattr(import_module(job["model"][0]), job["model"][1])
    model = build_model(config, model_class, device=DEVICE, dtype=torch.float32)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    bind_parameters(model, {name: 0.02 * torch.randn(like.shape) for name, like in parameters.items()})
    return model


def _step(model: Any, phase: dict[str, int]) -> None:
    from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, linear_block_table
    from fastkernels_gym.engine.step import forward_step

    batch, query, context = phase["batch"], phase["query_len"], phase["context_len"]
    table = linear_block_table(batch, query + context, BLOCK_SIZE)
    ids = torch.randint(model.config.vocab_size, (batch * query,))
    inputs = Batch.build([query] * batch, [context] * batch, table, BLOCK_SIZE, DEVICE, ids)
    caches = allocate_kv_caches(model.config, table.numel(), BLOCK_SIZE, DEVICE, torch.float32)
    with torch.no_grad():
        logits = forward_step(model, inputs, caches)
    assert logits.shape == (batch, model.config.vocab_size) and logits.isfinite().all()


def _listen(model: nn.Module, user: list[str], calls: list[nn.Module], nested: Counter[str]) -> list[Any]:
    """Counts the candidate's calls inside calls of a user, which is given as id, module and class name."""
    name, module_name, class_name = user
    user_class = getattr(import_module(module_name), class_name)
    began: list[int] = []

    def enter(module: nn.Module, args: Any) -> None:
        began.append(len(calls))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nested[name] += sum(called is not module for called in calls[began.pop() :])

    add: list[Callable[[nn.Module], Any]] = [
        lambda module: module.register_forward_pre_hook(enter),
        lambda module: module.register_forward_hook(leave),
    ]
    return [register(module) for module in model.modules() if type(module) is user_class for register in add]
