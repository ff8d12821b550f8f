"""What is kept between evaluations of one model: its private weights, its scenes, the baseline's player."""

from __future__ import annotations

import os
import random

import torch

from fastkernels_gym.catalog import Case, Model, Task, Workload
from fastkernels_gym.engine.batch import kv_cache_shape
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.player.sandbox import Limits
from fastkernels_gym.referee.arena import Slab
from fastkernels_gym.referee.ceilings import Ceilings
from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.device_clock import DeviceClock
from fastkernels_gym.referee.device_state import identity
from fastkernels_gym.referee.judging import Expected
from fastkernels_gym.referee.pages import BLOCK_SIZE
from fastkernels_gym.referee.players import Hear, Zygote
from fastkernels_gym.referee.scene import Call, Scene
from fastkernels_gym.referee.subject import Subject, build_unbound
from fastkernels_gym.request import Deadlines

# Private weights and the players' copy, three sets of KV pages, two of the states between layers, one layer of the
# oracle's in float64, and what activations and players need.
_WEIGHT_COPIES, _KV_COPIES, _STATE_COPIES, _USABLE = 2.3, 3.5, 2.3, 0.85
_ORACLE_ITEMSIZE = 8
_RAGGED_SEQUENCES = 3
# Of each graph that a process has captured torch 2.11 keeps 48 KiB for good: 0.4 MiB a candidate in the baseline's.
_CANDIDATES_A_BASELINE = 250
# Where it saves a third of a second an evaluation: a GPU's context.
SPARES = {"cpu": False, "cuda": True}
# What the programs of one operator may take of the memory that is free beside the model, and how often their inputs and
# outputs lie in it: original, mirror, decoy, two slabs; outputs of two graphs in each player, and as they were taken.
_PROGRAMS_SHARE, _PROGRAM_COPIES = 0.5, 6.5


class Session:
    """One model on one device.

    Args:
        task: any task of the model; its workload decides the scenes.
        device: where everything runs.
        zygote: of trusted players and of candidates alike.
        threads: CPU threads of a player.
        deadlines: of candidates.
    """

    def __init__(self, task: Task, device: torch.device, zygote: Zygote, threads: int, deadlines: Deadlines) -> None:
        self.key = session_key(task)
        self._zygote, self._threads, self._deadlines = zygote, threads, deadlines
        # Seeds come from the operating system and never leave this process.
        self.rng = random.Random(os.urandom(32))
        # Before anything else takes memory: where they are not known yet, it is needed to find them out.
        self.ceilings = Ceilings.of(device, task.model.dtype, identity(device))
        self.num_layers = affordable_layers(task.model, task.workload, free_bytes(device))
        generator = torch.Generator(device).manual_seed(self.rng.getrandbits(63))
        self.subject = Subject(task.model, device, self.num_layers, generator)
        self.scenes = {
            phase.name: Scene(
                self.subject, phase.name, [phase.query_len] * phase.batch, [phase.context_len] * phase.batch, self.rng
            )
            for phase in task.workload.phases
        }
        self.hidden = {name: self._hidden_scene(name, task.workload) for name in self.scenes}
        self._clock = DeviceClock() if device.type == "cuda" else None
        self._spare: Contender | None = None
        self._warming: Hear | None = None
        self.weights: Slab = self.subject.weights.new_slab(read_only=True)
        self.baseline, self._served = self._contender(trusted=True), 0
        try:
            self.baseline.load(None, None, ())
        except BaseException:
            self.close()
            raise
        # Tokens of a pass of each scene and its logits, which take seconds in float64: no candidate's player lives to
        # see them twice, and the passes that are timed have tokens of their own.
        self.answers: dict[str, tuple[torch.Tensor, Expected]] = {}
        # Calls of operators, by case, scene and how many were asked for (`recording.recorded`).
        self.recordings: dict[tuple[Case, str, int], list[Call]] = {}
        # Of inputs and outputs of the calls of one operator, all its cases together.
        self.pool_bytes = int(_PROGRAMS_SHARE * free_bytes(device) / _PROGRAM_COPIES)

    def new_candidate(self) -> Contender:
        """A fresh player, warm if there was time to make one."""
        self.await_spare()
        found, self._spare = self._spare or self._contender(trusted=False), None
        return found

    def warm_spare(self) -> None:
        """Has the next player made while this one is judged, where its start takes long."""
        if SPARES[self.subject.device.type] and self._spare is None:
            self._spare = self._contender(trusted=False)
            self._warming = self._spare.begin_warming()

    def await_spare(self) -> None:
        """Waits until the next player is warm: nothing shall run beside what is timed. One that fails is given up."""
        warming, self._warming = self._warming, None
        try:
            if warming is not None:
                warming()
        except CandidateFault:
            assert self._spare is not None
            self._spare.close()
            self._spare = None

    def begin_trial(self, *, fresh: bool) -> None:
        """Before each candidate: a fresh player in the baseline's place, if asked for or due."""
        self._served += 1
        if not fresh and self._served <= _CANDIDATES_A_BASELINE:
            return
        player = self._contender(trusted=True)
        self.baseline.close()
        self.baseline, self._served = player, 1
        player.load(None, None, ())

    def close(self) -> None:
        self.baseline.close()
        if self._spare is not None:
            self._spare.close()
        self.weights.close()
        if self._clock is not None:
            self._clock.close()

    def _contender(self, *, trusted: bool) -> Contender:
        player = self._zygote.spawn(Limits(), threads=self._threads, trusted=trusted)
        deadlines = Deadlines() if trusted else self._deadlines
        return Contender(player, self.subject, self.weights, deadlines, self._clock)

    def _hidden_scene(self, name: str, workload: Workload) -> Scene:
        """A ragged batch of lengths that no observation shows."""
        phase = workload.only(name).phases[0]
        draw = self.rng.randint
        if phase.query_len == 1:
            contexts = [draw(1, phase.context_len) for _ in range(_RAGGED_SEQUENCES)]
            return Scene(self.subject, f"{name}-ragged", [1] * len(contexts), contexts, self.rng)
        queries = [draw(2, phase.query_len) for _ in range(_RAGGED_SEQUENCES - 1)] + [1]
        return Scene(self.subject, f"{name}-ragged", queries, [0] * len(queries), self.rng)


def session_key(task: Task) -> tuple[str, str, tuple[str, ...]]:
    """What two tasks share that can share a session."""
    return task.model.sha256, task.workload.name, tuple(phase.name for phase in task.workload.phases)


def affordable_layers(model: Model, workload: Workload, memory: int) -> int:
    """The model's depth, or the largest that fits so many bytes."""
    full = int(model.config.num_hidden_layers)
    embedding, layer = parameter_counts(model)
    room = _USABLE * memory - _ORACLE_ITEMSIZE * layer
    blocks = sum(phase.batch * -(-phase.length // BLOCK_SIZE) for phase in workload.phases)
    pages = 2 * torch.Size(kv_cache_shape(model.config, blocks, BLOCK_SIZE)).numel()
    states = 2 * model.config.hidden_size * sum(phase.batch * phase.query_len for phase in workload.phases)
    each = _WEIGHT_COPIES * layer + _KV_COPIES * pages + _STATE_COPIES * states
    affordable = room / model.dtype.itemsize - _WEIGHT_COPIES * embedding
    return max(1, min(full, int(affordable / each)))


def free_bytes(device: torch.device) -> int:
    """Of the device's memory, what the allocator keeps unused included, or of the host's."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def parameter_counts(model: Model) -> tuple[int, int]:
    """Parameters outside the layers, and of one layer."""
    shallow = build_unbound(model, torch.device("meta"), 1)
    layer = sum(p.numel() for name, p in shallow.named_parameters() if ".layers." in f".{name}")
    return sum(p.numel() for p in shallow.parameters()) - layer, layer
