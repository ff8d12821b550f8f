"""A player with the model loaded: what it shares with the referee, and how the referee has it run programs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from fastkernels_gym.candidate import Candidate
from fastkernels_gym.catalog.operators import OperatorInfo
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.player.memory import dtype_name
from fastkernels_gym.referee.arena import Region, Slab
from fastkernels_gym.referee.device_clock import DeviceClock
from fastkernels_gym.referee.judging import Outputs
from fastkernels_gym.referee.links import Aim, Glimpse, Pass
from fastkernels_gym.referee.pages import PageOrder
from fastkernels_gym.referee.players import Hear, Player
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.scene import Scene
from fastkernels_gym.referee.sources import Sources
from fastkernels_gym.referee.subject import Subject
from fastkernels_gym.referee.taking import Takes, as_one
from fastkernels_gym.request import Deadlines
from fastkernels_gym.results import Verdict

# Who waits awake takes a core: where referee and players share them, a sleeper is served first.
WAITS_AWAKE = len(os.sched_getaffinity(0)) >= 4


@dataclass(slots=True)
class _Ready:
    """A program that a player has prepared.

    Args:
        reveals: show the player mirror or decoy, by their address.
        takes: its outputs, as the last window left them.
        glimpses: of the last window.
    """

    reveals: dict[int, Callable[[], None]]
    takes: Takes
    glimpses: list[Glimpse] = field(default_factory=list)


class Contender:
    """Baseline or candidate: one player, the slabs that it alone shares, its programs.

    Args:
        player: fresh from the zygote.
        subject: the model that it builds.
        weights: the slab that all players read.
        deadlines: of its answers.
        clock: the device's own, where it has one.
    """

    def __init__(
        self,
        player: Player,
        subject: Subject,
        weights: Slab,
        deadlines: Deadlines,
        clock: DeviceClock | None = None,
    ) -> None:
        self.player, self._subject, self._deadlines, self._clock = player, subject, deadlines, clock
        self._slabs: dict[str, Slab] = {}
        self._orders: dict[str, PageOrder] = {}
        self._sources = Sources(self._slabs, weights, subject.device)
        self._ready: dict[str, _Ready] = {}
        self._weights = weights

    def load(self, candidate: Candidate | None, operator: OperatorInfo | None, replaces: Sequence[str]) -> None:
        """Has the player build the model, the candidate's classes in the operator's place, and bind the weights.

        Raises:
            CandidateFault: whatever the candidate does wrong on the way; interface_mismatch for other parameters.
        """
        model = self._subject.model
        if candidate is not None:
            self.player.watch()
        answer = self.player.ask(
            {
                "op": "load",
                "stage": "load",
                "source": candidate.text if candidate else None,
                "module": operator.module if operator else None,
                "classes": list(replaces),
                "config": model.config.to_dict(),
                "model_class": f"{self._subject.operator.module}:{self._subject.operator.class_name}",
                "device": self._subject.device.type,
                "dtype": dtype_name(model.dtype),
                "num_layers": self._subject.num_layers,
            },
            timeout=self._deadlines.build_s,
        )
        self._check_parameters(answer.get("parameters"))
        entry, fds = self._weights.message()
        refs = {name: ref.to_json() for name, ref in self._subject.refs.items()}
        self.player.ask({"op": "bind", "slabs": [entry], "weights": refs}, fds, timeout=self._deadlines.build_s)

    def begin_warming(self) -> Hear:
        """Has the player do what takes time before there is a candidate, and gives what waits for it.

        What it then raises is nobody's fault.
        """
        message = {"op": "warm", "device": self._subject.device.type}
        message["model_type"] = self._subject.model.config.model_type
        return self.player.begin(message, timeout=self._deadlines.build_s)

    def share(self, region: Region) -> Slab:
        """This player's own copy of a region."""
        if region.name not in self._slabs:
            slab = self._slabs[region.name] = region.new_slab()
            entry, fds = slab.message()
            self.player.ask({"op": "bind", "slabs": [entry], "weights": None}, fds, timeout=self._deadlines.run_s)
        return self._slabs[region.name]

    def prepare(self, program: Program) -> None:
        """Warms a program up, captured in a CUDA graph where production would.

        Raises:
            CandidateFault: what the candidate raises, or outputs of another layout.
        """
        if program.needs_context or program.touches_pages:
            self.share(program.scene.kv)
        self.set_pages(program)
        slab, device = self.share(program.region), self._subject.device
        reveals = {
            private.data_ptr(): as_one(partial(self._reveal, slab, private), device)
            for private in (program.region.decoy, program.region.mirror)
        }
        reveals[program.region.mirror.data_ptr()]()
        _synchronize(device)
        answer = self.player.ask(program.message(), timeout=self._deadlines.build_s)
        program.check_layout(answer.get("outputs"))
        takes = Takes(program.layout, program.samples, len(program.calls), self._cool)
        self._ready[program.name] = _Ready(reveals, takes)
        for n, sources in self._sources.known(program, answer.get("places")).items():
            takes.know(n, sources, device)

    def set_pages(self, program: Program) -> None:
        """The pages in the program's order, the states between layers NaN.

        The KV rows of the pass's own tokens are NaN where the program is to write them, else as they were recorded.
        """
        if isinstance(program, Pass):
            self.share(program.states).bytes.fill_(0xFF)  # NaN in every dtype
        if not program.writes_kv and not program.rows:
            return
        slab, order = self.share(program.scene.kv), program.order
        if self._order(program.scene) is not order:
            order.fill(slab)
            self._orders[program.scene.kv.name] = order
        for ref, rows in program.rows.items():
            slab.tensor(ref).flatten(0, 1)[program.slots] = rows
        if program.writes_kv:
            order.blank(slab, self._layers(program), max(call.shift for call in program.calls))

    def captured(self, program: Program) -> bool:
        """Whether the player has the program's bursts as graphs, on a device whose clock can time them."""
        return self._clock is not None and all(map(self._ready[program.name].takes.knows, program.lengths))

    def run(self, program: Program, n: int, *, decoy: bool = False, sampled: bool = False) -> float:
        """One window: reveals the inputs, has the first n calls run, takes every output back.

        Args:
            program: prepared.
            n: one of its lengths.
            decoy: reveals the decoy in place of the inputs.
            sampled: takes of large outputs the program's sample only.

        Returns:
            Seconds from before the reveal to after the last output was taken.

        Raises:
            CandidateFault: what the candidate raises, or protocol_tamper for outputs that are nowhere.
        """
        ready, aim = self._ready[program.name], self._aim(program)
        reveal = ready.reveals[(program.region.decoy if decoy else program.region.mirror).data_ptr()]

        def take(places: Any) -> None:
            ready.takes.take(n, partial(self._sources.of, program, places), sampled=sampled)
            if aim is not None:
                aim.take()
                ready.glimpses = aim.glimpses

        _synchronize(self._subject.device)
        if program.on_device:
            return self._time_on_device(program, n, reveal, take)
        return self._time_on_host(program, n, reveal, take)

    def _time_on_device(
        self, program: Program, n: int, reveal: Callable[[], None], take: Callable[[Any], None]
    ) -> float:
        assert self._clock is not None
        with self.player.enqueued(_run(program, n), timeout=self._deadlines.run_s) as handover:

            def window() -> None:
                reveal()
                handover.enqueue()
                take(None)

            return self._clock.seconds(window, handover.watch)

    def _time_on_host(self, program: Program, n: int, reveal: Callable[[], None], take: Callable[[Any], None]) -> float:
        device = self._subject.device
        with self._about_to_run(program, n) as go:
            with self._kept_from_working():
                begin = time.perf_counter()
                reveal()
                _synchronize(device)
                wait = go()
            take(wait().get("places"))
            _synchronize(device)
            return time.perf_counter() - begin

    def rouse(self, program: Program, *, decoy: bool) -> None:
        """Has the first call run in no window and takes nothing; before it reveals the decoy, or nothing new."""
        if decoy:
            self._ready[program.name].reveals[program.region.decoy.data_ptr()]()
            _synchronize(self._subject.device)
        with self._about_to_run(program, 1) as go:
            go()()

    def _kept_from_working(self) -> AbstractContextManager[None]:
        """While inputs are revealed: on a CPU the player is stopped; a GPU is the referee's for the time."""
        return self.player.frozen() if self._subject.device.type == "cpu" else nullcontext()

    @contextmanager
    def _about_to_run(self, program: Program, n: int) -> Iterator[Callable[[], Hear]]:
        """Gives what has the player run; that gives what waits, and says where outputs are, unless that is known."""
        timeout, message = self._deadlines.run_s, _run(program, n)
        if WAITS_AWAKE and self._ready[program.name].takes.knows(n):
            with self.player.armed(message, timeout=timeout) as ring:
                yield ring
        else:
            yield partial(self.player.begin, message, timeout=timeout, awake=WAITS_AWAKE)

    def _aim(self, program: Program) -> Aim | None:
        if not isinstance(program, Pass):
            return None
        states, pages = self._slabs[program.states.name], self._slabs[program.scene.kv.name]
        return program.aim(states, pages, tuple(self._ready[program.name].takes.shown[0]))

    def outputs(self, program: Program, index: int) -> Outputs:
        """What the last window took of a call: its outputs, then the KV rows that it wrote."""
        call, taken = program.calls[index], self._ready[program.name].takes.shown[index]
        if program.kv_layer(call) is None:
            return tuple(taken)
        slab = self.share(program.scene.kv)
        caches = [(slab.tensor(k), slab.tensor(v)) for k, v in program.scene.kv_refs]
        return (*taken, *program.kv_rows(call, caches, program.slots))

    def every_output(self, program: Program) -> list[list[torch.Tensor]]:
        """What the last window took, by output and call: as `outputs`, but all that is there and has elements."""
        takes = self._ready[program.name].takes.shown
        found = [[out for out in outputs if out is not None and out.numel()] for outputs in zip(*takes, strict=True)]
        if not program.calls_of_layers:
            return found
        rows: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        slab = self.share(program.scene.kv)
        for layer, shifts in program.calls_of_layers.items():
            slots = program.slots + shifts[:, None]
            for calls, ref in zip(rows, program.scene.kv_refs[layer], strict=True):
                calls.extend(slab.tensor(ref).flatten(0, 1)[slots].unbind())
        return [*found, *rows]

    def seen(self, program: Pass) -> list[Glimpse]:
        """The links that the last window looked at."""
        return self._ready[program.name].glimpses

    def kept_inputs_intact(self, program: Program) -> bool:
        """Whether no argument was written that may not be."""
        slab = self._slabs[program.name]
        return all(slab.intact(ref) for index in range(len(program.calls)) for ref in program.kept_inputs(index))

    def kv_intact(self, scene: Scene, layer: int | None = None) -> bool:
        """Whether a scene's KV pages, or one layer's, are untouched but for the rows that its pass writes."""
        slab = self._slabs.get(scene.kv.name)
        return slab is None or self._order(scene).intact(slab, layer)

    def check_pages(self, scene: Scene, layer: int | None = None) -> None:
        """Holds a scene's KV pages, or one layer's, against the originals.

        Raises:
            CandidateFault: mutated_input.
        """
        if not self.kv_intact(scene, layer):
            raise CandidateFault(Verdict.MUTATED_INPUT, "KV pages were written that belong to other tokens")

    def drop(self, program: Program) -> None:
        """Forgets a program and gives its memory back; with the last one, what the player's allocator keeps of them."""
        regions = [program.region, *([program.states] if isinstance(program, Pass) else [])]
        names = [region.name for region in regions]
        if set(self._ready) <= {program.name}:
            self._sources.close()
        self.player.ask({"op": "drop", "name": program.name, "slabs": names}, timeout=self._deadlines.run_s)
        self._ready.pop(program.name, None)
        for name in names:
            if (slab := self._slabs.pop(name, None)) is not None:
                slab.close()

    def close(self) -> None:
        self.player.close()
        self._ready.clear()
        self._sources.close()
        for slab in self._slabs.values():
            slab.close()
        self._slabs.clear()

    def _order(self, scene: Scene) -> PageOrder:
        """In which the player holds a scene's pages."""
        return self._orders.get(scene.kv.name, scene.order)

    def _layers(self, program: Program) -> set[int]:
        layers = {program.kv_layer(call) for call in program.calls} - {None}
        return {layer for layer in layers if layer is not None} or set(range(self._subject.num_layers))

    def _reveal(self, slab: Slab, private: torch.Tensor) -> None:
        slab.reveal(private)
        self._cool()

    def _cool(self) -> None:
        """Evicts the L2 cache: how much of inputs and outputs lies there must not depend on how many calls ran."""
        if self._subject.scratch is not None:
            self._subject.scratch.zero_()

    def _check_parameters(self, said: Any) -> None:
        expected = {name: [list(ref.shape), ref.dtype] for name, ref in self._subject.refs.items()}
        try:
            actual = {name: [shape, dtype] for name, shape, dtype in said}
        except (TypeError, ValueError) as error:
            raise CandidateFault(Verdict.PROTOCOL_TAMPER, "parameters are not described") from error
        for name in expected.keys() | actual.keys():
            if expected.get(name) != actual.get(name):
                found, wanted = actual.get(name, "missing"), expected.get(name, "none of that name")
                raise CandidateFault(Verdict.INTERFACE_MISMATCH, f"parameter {name!r} is {found}, expected {wanted}")


def _run(program: Program, n: int) -> dict[str, Any]:
    return {"op": "run", "name": program.name, "n": n}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
