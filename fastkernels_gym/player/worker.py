"""The player: builds the model with the candidate swapped in, and runs what the referee tells it to.

    warm      what takes time before there is a candidate
    load      import the operators through the overlay, build the model with its parameters on meta
    bind      map the arena, bind the weights
    prepare   a program: calls of submodules (or of the whole model), warmed up, captured in graphs where asked
    run       the first n calls of a program, now or when the doorbell rings, be it the device's or a processor that
              hears it; the answer leaves when the device is idle

Everything here runs beside hostile code and is trusted with nothing: whatever it answers, the referee checks.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fastkernels_gym.player.doorbell import Doorbell, awake_until
from fastkernels_gym.player.faults import CANDIDATE_FILE, InterfaceError, describe, fault_kind
from fastkernels_gym.player.memory import DeviceSlab, HostSlab, address_range, dtype_name, ipc_handle, view
from fastkernels_gym.player.protocol import Channel, PeerClosed, TensorRef

_SPIN_S = 0.005


def serve(channel: Channel, bell: Doorbell, *, threads: int) -> None:
    """Answers the referee until it hangs up or a candidate's fault ends the player."""
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    gc.disable()  # a collection takes as long as a thousand kernels: `drop` collects, between programs
    player = Player(bell, channel.pending)
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "warm": player.warm,
        "load": player.load,
        "bind": player.bind,
        "prepare": player.prepare,
        "drop": player.drop,
        "run": player.run,
    }
    while True:
        try:
            message, fds = channel.receive()
        except PeerClosed:
            return
        try:
            answer = commands[message.pop("op")](message, fds)
        except BaseException as error:  # the player's boundary: whatever the candidate raised becomes its fault
            channel.send({"fault": fault_kind(error, message.get("stage", "run")), "detail": describe(error)})
            if isinstance(error, SystemExit | KeyboardInterrupt):
                return
            continue
        channel.send(answer)
        if player.device.type == "cuda":
            # Between two windows: a GPU's host has a core for each process, and a sleeper wakes up late.
            awake_until(channel.pending, _SPIN_S)


@dataclass(slots=True)
class Program:
    """Calls that are ready to run, their graphs by length, where outputs belong, and those they last gave."""

    calls: list[Callable[[], tuple[torch.Tensor | None, ...]]]
    slots: list[list[torch.Tensor | None]] | None
    warm: list[tuple[torch.Tensor | None, ...]]
    graphs: dict[int, torch.cuda.CUDAGraph] = field(default_factory=dict)
    outputs: dict[int, list[tuple[torch.Tensor | None, ...]]] = field(default_factory=dict)

    def all_outputs(self, n: int) -> list[tuple[torch.Tensor | None, ...]]:
        """Outputs of the first n calls, and of the others from an earlier run.

        Handing all of them over whatever n is makes that a fixed cost, which the slope over n leaves out.
        """
        return [*self.outputs[n], *self.warm[n:]]


class Player:
    """The state of one player: one model, one arena, some programs."""

    def __init__(self, bell: Doorbell, hung_up: Callable[[], bool]) -> None:
        self.bell, self.hung_up, self.device = bell, hung_up, torch.device("cpu")
        self.model: nn.Module = nn.Module()
        self.slabs: dict[str, HostSlab | DeviceSlab] = {}
        self.programs: dict[str, Program] = {}
        # By address: the caching allocator keeps its segments, and asking the driver costs as much as a small kernel.
        self._located: dict[int, tuple[str, int]] = {}

    def warm(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        from transformers import AutoConfig

        from fastkernels_gym.player.first_uses import use_device

        use_device(torch.device(message["device"]))
        AutoConfig.for_model(message["model_type"])
        return {"warm": True}

    def load(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        self.device = torch.device(message["device"])
        if message["source"] is not None:
            from fastkernels_gym.player import overlay

            path = Path.cwd() / CANDIDATE_FILE
            path.write_text(message["source"], encoding="utf-8")
            overlay.install(message["module"], message["classes"], path)
            importlib.import_module(message["module"])
        from transformers import AutoConfig

        from fastkernels_gym.engine.build import build_model

        config = AutoConfig.for_model(**message["config"])
        module, _, name = message["model_class"].partition(":")
        model_class = getattr(importlib.import_module(module), name)
        dtype = getattr(torch, message["dtype"])
        self.model = build_model(config, model_class, device=self.device, dtype=dtype, num_layers=message["num_layers"])
        parameters = self.model.named_parameters(remove_duplicate=False)
        return {"parameters": [[name, list(p.shape), dtype_name(p.dtype)] for name, p in parameters]}

    def bind(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        from fastkernels_gym.engine.build import bind_parameters

        descriptors = iter(fds)
        for name, nbytes, writable, handle in message["slabs"]:
            if handle is None:
                self.slabs[name] = HostSlab(next(descriptors), nbytes, writable=writable)
            else:
                self.slabs[name] = DeviceSlab.open(bytes.fromhex(handle), self.device)
        if message["weights"] is not None:
            weights = {name: self._tensor(ref) for name, ref in message["weights"].items()}
            bind_parameters(self.model, weights)
            for module in self.model.modules():
                prepare = getattr(module, "process_weights_after_loading", None)
                if callable(prepare):
                    prepare()
        self._synchronize()
        return {"bound": True}

    def prepare(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        contexts = [self._context(data) for data in message["contexts"]]
        calls = [self._call(data, contexts) for data in message["calls"]]
        slots = None
        if self.device.type == "cpu":
            slots = [[None if r is None else self._tensor(r) for r in data["out"]] for data in message["calls"]]
        warm = [call() for call in calls]
        self._synchronize()
        program = Program(calls, slots, warm)
        if message["graph"] and self.device.type == "cuda":
            self._capture(program, message["lengths"])
        self.programs[message["name"]] = program
        described = [[None if t is None else _describe_tensor(t) for t in outputs] for outputs in warm]
        places = {str(n): self._places(program, n) for n in program.graphs}
        return {"outputs": described, "places": places}

    def drop(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        self.programs.pop(message["name"], None)
        gc.collect()
        self._located.clear()
        for name in message["slabs"]:
            if (slab := self.slabs.pop(name, None)) is not None:
                slab.close()
        if not self.programs and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return {"dropped": True}

    def run(self, message: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        program, n = self.programs[message["name"]], message["n"]
        if (window := message.get("window")) is None:
            self._work(program, n)
        elif message["on_device"]:
            self.bell.enqueue(window, program.graphs[n].replay)
            self._synchronize()
        else:
            self.bell.answer(window, partial(self._work, program, n), self.hung_up)
        known = n in program.graphs or program.slots is not None
        return {"done": True} if known else {"done": True, "places": self._places(program, n)}

    def _work(self, program: Program, n: int) -> None:
        if n in program.graphs:
            program.graphs[n].replay()
            self._synchronize()
            return
        program.outputs.clear()
        program.outputs[n] = [call() for call in program.calls[:n]]
        self._synchronize()
        if program.slots is None:
            return
        for outputs, slots in zip(program.all_outputs(n), program.slots, strict=True):
            for output, slot in zip(outputs, slots, strict=True):
                if output is not None and slot is not None:
                    slot.copy_(output)

    def _capture(self, program: Program, lengths: Sequence[int]) -> None:
        """One graph a length; no graph at all where the candidate cannot be captured."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for call in program.calls:
                    call()
            side.synchronize()
            outputs: dict[int, list[tuple[torch.Tensor | None, ...]]] = {}
            graphs: dict[int, torch.cuda.CUDAGraph] = {}
            # By hand: torch.cuda.graph would empty the allocator's cache, whose segments the referee has mapped.
            with torch.cuda.stream(side):
                for n in lengths:
                    graphs[n] = torch.cuda.CUDAGraph()
                    graphs[n].capture_begin()
                    try:
                        outputs[n] = [call() for call in program.calls[:n]]
                    finally:
                        graphs[n].capture_end()
            side.synchronize()
        except RuntimeError:
            with contextlib.suppress(RuntimeError):
                torch.cuda.synchronize()
            return
        program.graphs, program.outputs, program.warm = graphs, outputs, outputs[max(lengths)]

    def _call(self, data: dict[str, Any], contexts: list[Any]) -> Callable[[], tuple[torch.Tensor | None, ...]]:
        from fastkernels_gym.tasks.baseline.forward_context import set_forward_context

        arguments = [self._tensor(a["t"]) if "t" in a else a["v"] for a in data["args"]]
        context = contexts[data["context"]] if data["context"] is not None else None
        if data["path"] == "":
            function = self._whole_model(context)
        else:
            function = module = self.model.get_submodule(data["path"])
            try:
                inspect.signature(_implementation(module)).bind(*arguments)
            except TypeError as error:
                raise InterfaceError(f"{type(module).__name__}.forward: {error}") from None

        if context is None:
            return lambda: _flatten(function(*arguments))

        def call() -> tuple[torch.Tensor | None, ...]:
            with set_forward_context(context):
                return _flatten(function(*arguments))

        return call

    def _whole_model(self, context: Any) -> Callable[..., torch.Tensor]:
        """Input ids and positions to the logits of each sequence's last token; leaves the trace."""
        from fastkernels_gym.engine.batch import Batch
        from fastkernels_gym.engine.step import forward_step

        def step(input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            batch = Batch(input_ids, positions, context.attn_metadata)
            return forward_step(self.model, batch, context.kv_caches, context.trace)

        return step

    def _context(self, data: dict[str, Any]) -> Any:
        from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata, ForwardContext, Trace

        metadata: dict[str, Any] = data["metadata"]
        fields: dict[str, Any] = {k: self._tensor(v) if isinstance(v, dict) else v for k, v in metadata.items()}
        caches = [(self._tensor(k), self._tensor(v)) for k, v in data["kv"]]
        trace = Trace(*map(self._tensor, data["trace"])) if data["trace"] else None
        return ForwardContext(AttentionMetadata(**fields), caches, trace)

    def _tensor(self, data: Any) -> torch.Tensor:
        ref = TensorRef.from_json(data)
        return view(self.slabs[ref.slab].bytes, ref)

    def _places(self, program: Program, n: int) -> list[list[dict[str, Any] | None]]:
        return [[None if t is None else self._locate(t) for t in one] for one in program.all_outputs(n)]

    def _locate(self, tensor: torch.Tensor) -> dict[str, Any]:
        """Where an output lies: in a slab of the arena, or in an allocation of the player's own, by its handle."""
        pointer = tensor.data_ptr()
        if pointer not in self._located:
            self._located[pointer] = self._find(pointer) if tensor.numel() else ("", 0)
        slab, offset = self._located[pointer]
        layout = {"shape": list(tensor.shape), "stride": list(tensor.stride()), "dtype": dtype_name(tensor.dtype)}
        return {"slab": slab, "offset": offset, **layout}

    def _find(self, pointer: int) -> tuple[str, int]:
        for name, slab in self.slabs.items():
            begin = slab.bytes.data_ptr()
            if begin <= pointer < begin + slab.bytes.numel():
                return name, pointer - begin
        base, _ = address_range(pointer)
        return ipc_handle(base).hex(), pointer - base

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _implementation(module: nn.Module) -> Callable[..., Any]:
    """The method whose signature counts: an operator's dispatch takes anything."""
    from fastkernels_gym.tasks.baseline.operator import Operator

    dispatches = isinstance(module, Operator) and type(module).forward is Operator.forward
    implementation: Any = module.forward_native if dispatches else module.forward
    return cast("Callable[..., Any]", implementation)


def _flatten(result: Any) -> tuple[torch.Tensor | None, ...]:
    if result is None:
        return ()
    items = result if isinstance(result, tuple | list) else (result,)
    if not all(item is None or isinstance(item, torch.Tensor) for item in items):
        raise TypeError(f"an operator returns tensors, not {[type(item).__name__ for item in items]}")
    return tuple(items)


def _describe_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    device = tensor.device.type
    return {
        "shape": list(tensor.shape),
        "stride": list(tensor.stride()),
        "dtype": dtype_name(tensor.dtype),
        "device": device,
    }
