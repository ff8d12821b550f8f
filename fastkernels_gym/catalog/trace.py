"""Traces: one pass of a model on the `meta` device, and every call that it makes of an operator."""

from __future__ import annotations

import inspect
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache, wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from fastkernels_gym.catalog.cases import ArgSpec, Case, Plain
from fastkernels_gym.catalog.graph import import_graph
from fastkernels_gym.catalog.models import Model
from fastkernels_gym.catalog.operators import OperatorInfo, find_operator, operator_of_class
from fastkernels_gym.catalog.work import DenseProducts, Movement, Work
from fastkernels_gym.catalog.workloads import Phase
from fastkernels_gym.errors import UnsupportedModel, UserError
from fastkernels_gym.tasks.baseline.forward_context import (
    AttentionMetadata,
    ForwardContext,
    reference_mode,
    set_forward_context,
)

BLOCK_SIZE = 16
"""Positions in a block of the KV cache, as the engine lays it out."""

_lock = threading.RLock()  # a build sets the process's default dtype and wraps constructors


@dataclass(frozen=True, slots=True)
class Trace:
    """What one pass of a phase calls.

    Args:
        phase: the phase.
        cases: the cases of every operator, in the order of their first call.
        nested: how many calls of an operator happen inside calls of another, by (user, operator).
    """

    phase: Phase
    cases: tuple[Case, ...]
    nested: Mapping[tuple[str, str], int] = field(hash=False)

    def calls(self, operator_id: str) -> int:
        """Calls of an operator in one pass."""
        return sum(case.count for case in self.cases if case.operator == operator_id)


@cache
def trace(model: Model, phase: Phase, tp: int = 1) -> Trace:
    """Runs one pass of a phase on a model at its real size, without memory for a single tensor.

    Args:
        model: the model, run at full depth with its references.
        phase: batch and lengths; the context is already in the KV cache.
        tp: tensor-parallel size; the pass is rank 0's.

    Raises:
        UnsupportedModel: if the operators reject the model's config.
    """
    with _lock, _rank_zero_of(tp), _config_faults(model):
        built = _build(model, tp)
        context = _context(model, phase, tp)
        recorder = _Recorder(phase, built, context)
        with recorder.listening(), set_forward_context(context), reference_mode(), torch.no_grad():
            tokens = torch.empty(phase.tokens, dtype=torch.int64, device="meta")
            hidden = built.module(tokens, torch.empty_like(tokens))
            last_rows = torch.arange(1, phase.batch + 1) * phase.query_len - 1
            built.module.compute_logits(hidden[last_rows.to("meta")])
    return recorder.result()


@dataclass(frozen=True, slots=True)
class _Built:
    """A model on meta; for each operator instance its id, path and constructor arguments."""

    module: Any
    instances: tuple[tuple[nn.Module, str, str, dict[str, Plain]], ...]


@lru_cache(maxsize=2)
def _build(model: Model, tp: int) -> _Built:
    l4 = find_operator(model.l4)
    model_class = getattr(import_module(l4.module), l4.class_name)
    default = torch.get_default_dtype()
    torch.set_default_dtype(model.dtype)
    try:
        operators = (l4, *import_graph(l4.id).parts(l4.id))
        with torch.device("meta"), _constructors_recorded(operators) as inits:
            module = model_class(model.config)
    finally:
        torch.set_default_dtype(default)
    found = []
    for path, child in module.named_modules():
        operator = operator_of_class(type(child).__module__, type(child).__qualname__)
        if operator is not None:
            found.append((child, operator.id, path, inits.get(id(child), {})))
    return _Built(module.eval(), tuple(found))


@contextmanager
def _constructors_recorded(operators: Sequence[OperatorInfo]) -> Iterator[dict[int, dict[str, Plain]]]:
    """Yields the constructor arguments of the operators' instances built meanwhile, by the instance's `id`."""
    recorded: dict[int, dict[str, Plain]] = {}
    originals: list[tuple[type, Any]] = []

    def recording(init: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(init)

        @wraps(init)
        def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> None:
            if id(self) not in recorded:  # a base's constructor runs inside its subclass's
                bound = signature.bind(self, *args, **kwargs).arguments
                recorded[id(self)] = {name: _plain(value) for name, value in list(bound.items())[1:]}
            init(self, *args, **kwargs)

        return wrapper

    for operator in operators:
        operator_class = getattr(import_module(operator.module), operator.class_name)
        if "__init__" in vars(operator_class):
            originals.append((operator_class, operator_class.__init__))
    for operator_class, init in originals:
        operator_class.__init__ = recording(init)  # type: ignore[misc]
    try:
        yield recorded
    finally:
        for operator_class, init in originals:
            operator_class.__init__ = init  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class _Running:
    """A call that has not returned: its operator, its case, operations counted before it, its arguments."""

    operator: str
    key: str
    flops: int
    arguments: tuple[Any, ...]


class _Recorder:
    """Listens to the operators of a model for one pass."""

    def __init__(self, phase: Phase, built: _Built, context: ForwardContext) -> None:
        self._phase = phase
        self._built = built
        self._calls: dict[str, tuple[str, list[str], dict[str, Plain], tuple[ArgSpec, ...]]] = {}
        self._nested: Counter[tuple[str, str]] = Counter()
        self._running: list[_Running] = []
        self._products, self._movement = DenseProducts(), Movement(built.module, context)
        self._work: dict[str, Work] = {}
        self._outputs: dict[str, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        handles = []
        own = {id(module): _unprefixed(init) for module, _, _, init in self._built.instances}
        for module, operator_id, path, init in self._built.instances:
            # Its parts count too: layers that are called alike may differ in them, as in the window of their attention.
            identity = json.dumps([own[id(part)] for part in module.modules() if id(part) in own], sort_keys=True)
            enter = self._enter(identity, operator_id, path, init)
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave))
        kernels = [module for module, operator_id, _, _ in self._built.instances if operator_id.startswith("L1/")]
        for kernel in kernels:
            kernel.forward = self._once(kernel.forward)
        try:
            with self._products:
                yield
        finally:
            for kernel in kernels:
                del kernel.forward
            for handle in handles:
                handle.remove()

    def result(self) -> Trace:
        cases = tuple(
            Case(operator_id, self._phase.name, self._phase.n, len(paths), tuple(paths), init, args, self._least(key))
            for key, (operator_id, paths, init, args) in self._calls.items()
        )
        return Trace(self._phase, cases, dict(self._nested))

    def _least(self, key: str) -> Work:
        """The least work of a case; the model's own call is the whole pass, logits included."""
        work = self._work[key]
        return Work(work.bytes, self._products.flops) if self._calls[key][1] == [""] else work

    def _enter(self, identity: str, operator_id: str, path: str, init: dict[str, Plain]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = _call_signature(type(module)).bind(module, *args, **kwargs).arguments
            specs = tuple(_spec(name, value) for name, value in list(bound.items())[1:])
            key = json.dumps([operator_id, identity, [spec.to_json() for spec in specs]])
            self._calls.setdefault(key, (operator_id, [], init, specs))[1].append(path)
            self._nested.update((user, operator_id) for user in {call.operator for call in self._running})
            self._running.append(_Running(operator_id, key, self._products.flops, tuple(bound.values())[1:]))

        return hook

    def _once(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Runs the first call of a case alone: a kernel's outputs on meta follow from the shapes that it is given."""

        def call(*args: Any, **kwargs: Any) -> Any:
            key = self._running[-1].key
            if key in self._outputs:
                self._products.flops += self._work[key].flops
            else:
                self._outputs[key] = forward(*args, **kwargs)
            return self._outputs[key]

        return call

    def _leave(self, module: nn.Module, _: object, outputs: Any) -> None:
        call = self._running.pop()
        if call.key not in self._work:
            flops = self._products.flops - call.flops
            moved = self._movement.of(module, call.arguments, outputs, products=flops > 0)
            self._work[call.key] = Work(moved, flops)


def _unprefixed(init: dict[str, Plain]) -> dict[str, Plain]:
    """Constructor arguments but for the name that an instance has in the model."""
    return {name: value for name, value in init.items() if name != "prefix"}


def _call_signature(operator_class: type[nn.Module]) -> inspect.Signature:
    """The signature with the parameters' names: `forward` itself may be the dispatcher's `*args, **kwargs`."""
    native = getattr(operator_class, "forward_native", operator_class.forward)
    return inspect.signature(native)


def _context(model: Model, phase: Phase, tp: int) -> ForwardContext:
    """The pass's metadata as real integers on the CPU, and KV caches on meta."""
    batch, width = phase.batch, math.ceil(phase.length / BLOCK_SIZE)
    block_table = torch.arange(batch * width, dtype=torch.int32).view(batch, width)
    positions = torch.arange(phase.context_len, phase.length)
    slots = block_table[:, positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE
    metadata = AttentionMetadata(
        query_start_loc=torch.arange(batch + 1, dtype=torch.int32) * phase.query_len,
        seq_lens=torch.full((batch,), phase.length, dtype=torch.int32),
        block_table=block_table,
        slot_mapping=slots.flatten(),
        max_query_len=phase.query_len,
        max_seq_len=width * BLOCK_SIZE,
    )
    config = model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (batch * width, BLOCK_SIZE, max(1, config.num_key_value_heads // tp), head_size)
    caches = [_cache_pair(shape, model.dtype) for _ in range(config.num_hidden_layers)]
    return ForwardContext(attn_metadata=metadata, kv_caches=caches)


def _cache_pair(shape: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.empty(shape, dtype=dtype, device="meta"), torch.empty(shape, dtype=dtype, device="meta")


@contextmanager
def _rank_zero_of(tp: int) -> Iterator[None]:
    """Makes this process rank 0 of `tp`, with collectives that move nothing."""
    if distributed.is_initialized():
        raise UserError("the catalog cannot trace models inside a torch.distributed process group")
    if tp == 1:
        yield
        return
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=tp)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def _config_faults(model: Model) -> Iterator[None]:
    """Turns what operators raise on a config that they cannot run into one clear error."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedModel(f"{model.name}: {model.l4} cannot run its config: {reason}") from error


def _spec(name: str, value: Any) -> ArgSpec:
    if isinstance(value, Tensor):
        return ArgSpec(name, tuple(value.shape), _plain_dtype(value.dtype), value.stride())
    return ArgSpec(name, value=_plain(value))


def _plain(value: Any) -> Plain:
    """A value as JSON can hold it; objects of any other kind become their class's name."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, torch.dtype):
        return _plain_dtype(value)
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return type(value).__name__


def _plain_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
