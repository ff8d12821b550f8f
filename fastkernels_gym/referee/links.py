"""The full model's pass as a chain of links, each judged by itself, under pages that no player has seen.

Thirty layers of rounding hide a coarse one from the logits. So every pass leaves the states between its layers in
memory that it shares with the referee, and the referee looks at links of that chain: link 0 makes the first state of
the tokens, link i + 1 is layer i, the last one makes logits of the last state. Which link is not known outside the
referee, and what is looked at is taken within the window: whoever gives a right state must have computed it by then.
Neighbouring links share a state, so a forged one breaks the link before it or the one after.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fastkernels_gym.engine.step import last_logits
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee.arena import Region, Slab
from fastkernels_gym.referee.expecting import expect
from fastkernels_gym.referee.judging import Expected, Outputs, compare, copied, judge, noise_floor
from fastkernels_gym.referee.numerics import ErrorRatio
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.routing import Routers
from fastkernels_gym.referee.running import run_baseline
from fastkernels_gym.referee.scene import Call, Given, Scene
from fastkernels_gym.results import Verdict
from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata

_JUDGED_LAYERS = 3  # of a pass, before it is timed
_STATE, _ROWS = ("hidden states", "residual"), ("keys", "values")
_HINT = (
    "A model hands over what enters each layer, and what leaves the last one, by "
    "`record_layer(index, hidden_states, residual)`, as the loop in LlamaModel.forward does"
)


@dataclass(frozen=True, slots=True)
class Glimpse:
    """One link of one pass, as a player left it, and what it was made of.

    Args:
        link: which.
        input_ids: (tokens,) int64; of the pass.
        metadata: of the pass, by the referee's own pages.
        before: hidden states and residual that enter the link, (tokens, hidden) each; empty for link 0.
        outputs: those that leave it, and the KV rows that it wrote; the logits of the last link.
    """

    link: int
    input_ids: torch.Tensor
    metadata: AttentionMetadata
    before: Outputs
    outputs: Outputs


@dataclass(slots=True)
class Aim:
    """What is to be taken out of a player's memory, and where to.

    Args:
        slots: (tokens,) int64; of the KV rows.
        glimpses: of the links that were drawn; what they hold is there once it is taken.
    """

    slots: torch.Tensor
    glimpses: list[Glimpse] = field(default_factory=list)
    _copies: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    _rows: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def copy_of(self, source: torch.Tensor) -> torch.Tensor:
        self._copies.append((torch.empty_like(source), source))
        return self._copies[-1][0]

    def rows_of(self, source: torch.Tensor) -> torch.Tensor:
        """Of keys or values, (slots of all pages, heads, width), those of the pass's own tokens."""
        self._rows.append((source.new_empty(len(self.slots), *source.shape[1:]), source))
        return self._rows[-1][0]

    def take(self) -> None:
        """Copies it all."""
        if self._copies:
            torch._foreach_copy_([target for target, _ in self._copies], [source for _, source in self._copies])
        for target, source in self._rows:
            torch.index_select(source, 0, self.slots, out=target)


@dataclass(frozen=True, slots=True)
class _Floor:
    """How far the baseline itself is off in a link: its outputs, relatively, and the scores of its routers."""

    outputs: list[float]
    routers: tuple[float, ...]


class Pass(Program):
    """The full model's call in a scene.

    Args:
        name: a name for messages; the region's too.
        scene: whose batch is run.
        rng: decides what is looked at.
    """

    def __init__(self, name: str, scene: Scene, rng: random.Random) -> None:
        super().__init__(name, scene, [scene.whole_model()], needs_context=True)
        subject, self._rng = scene.subject, rng
        self.states = Region(f"{name}:states", subject.device, revealed=False)
        count, width = subject.num_layers, int(subject.model.config.hidden_size)
        tokens = scene.batch.input_ids.numel()
        self._hidden, self._residual = self.trace = tuple(
            self.states.reserve((rows, tokens, width), (tokens * width, width, 1), subject.model.dtype)
            for rows in (count + 1, count)
        )
        self._head = count + 1
        layers = rng.sample(range(1, count + 1), min(count, _JUDGED_LAYERS))
        self.links: tuple[int, ...] = (0, *sorted(layers), self._head)
        self._floors: dict[int, _Floor] = {}
        self._sample: Glimpse | None = None
        self._compared = 0

    def name_of(self, link: int) -> str:
        """In words."""
        if link in (0, self._head):
            return "tokens to the first layer" if link == 0 else "the last layer to logits"
        return f"layer {link - 1}"

    def narrow(self) -> None:
        """Looks at one of its links only, secretly chosen, from now on: all have been judged once."""
        self.links = (self._rng.choice(self.links),)

    def layer_by(self, link: int) -> int:
        """The layer that a link is, or the one beside it."""
        return min(max(link - 1, 0), self._head - 2)

    def deal(self) -> None:
        """Draws the link to look at as well."""
        super().deal()
        self.links = (self._rng.randrange(self._head + 1),)

    def aim(self, states: Slab, pages: Slab, logits: Outputs) -> Aim:
        """Makes ready to take the links that were drawn: within the window there is only copying.

        Args:
            states: the player's slab of `states`.
            pages: of the scene's KV pages.
            logits: where the window's are taken to.
        """
        ids = self.calls[0].arguments[0]
        assert isinstance(ids, Given)
        hidden, residual = states.tensor(self._hidden), states.tensor(self._residual)
        aim = Aim(self.slots)
        for link in self.links:
            ends = [
                (aim.copy_of(hidden[at]), None if at == 0 else aim.copy_of(residual[at - 1]))
                for at in (link - 1, link)
                if 0 <= at < self._head
            ]
            outputs: Outputs = logits if link == self._head else ends[-1][: 2 if link else 1]
            if self._is_layer(link):
                outputs += tuple(aim.rows_of(pages.tensor(ref).flatten(0, 1)) for ref in self.scene.kv_refs[link - 1])
            aim.glimpses.append(Glimpse(link, ids.tensor, self.metadata, ends[0] if link else (), outputs))
        return aim

    def judge_link(self, seen: Glimpse, name: str) -> ErrorRatio:
        """Holds a link against the oracle, run on the state that the pass left before it.

        Raises:
            CandidateFault: wrong_value or unwritten_output, naming the link.
        """
        where = f"{name}, {self.name_of(seen.link)}"
        self._check_written(seen, where)
        truth = self._expect(seen)
        self._floors[seen.link] = _Floor(noise_floor([truth]), truth.router_noise)
        return judge(where, seen.outputs, truth)

    def compare_link(self, seen: Glimpse, name: str) -> None:
        """Holds a timed pass's link against the baseline's run of it; what is further off than noise is judged in full.

        Raises:
            CandidateFault: as `judge_link`.
        """
        self._compared += 1
        if self._rng.randrange(self._compared) == 0:  # each pass is as likely as any other to be kept
            self._sample = replace(seen, input_ids=seen.input_ids.clone(), outputs=copied(seen.outputs))
        where = f"{name}, {self.name_of(seen.link)}"
        self._check_written(seen, where)
        routers, floor = self._routers(seen.link), self._floor(seen.link)
        if floor is None:
            self.judge_link(seen, name)
            return
        with routers.heard() as heard:
            baseline = self._baseline(seen)
        try:
            compare(where, seen.outputs, baseline, floor.outputs, routers.near_ties(heard, floor.routers, rounded=True))
        except CandidateFault:
            self.judge_link(seen, name)

    def judge_sample(self, name: str) -> None:
        """Holds one link of one timed pass, both drawn uniformly, against the oracle in full.

        Raises:
            CandidateFault: as `judge_link`.
        """
        if self._sample is not None:
            self.judge_link(self._sample, name)

    def _floor(self, link: int) -> _Floor | None:
        """The link's own floor where it is known, else the worst of layers with as many routers."""
        if link in self._floors or not self._is_layer(link):
            return self._floors.get(link)
        layers = [floor for other, floor in self._floors.items() if self._is_layer(other)]
        kin = [floor for floor in layers if len(floor.routers) == self._routers(link).count]
        if not kin:
            return None
        outputs = [max(each) for each in zip(*(floor.outputs for floor in kin), strict=True)]
        return _Floor(outputs, tuple(max(each) for each in zip(*(floor.routers for floor in kin), strict=True)))

    def _is_layer(self, link: int) -> bool:
        return 0 < link < self._head

    def _routers(self, link: int) -> Routers:
        module = self.scene.subject.module
        return Routers(module.get_submodule(self._path(link)) if self._is_layer(link) else torch.nn.Identity())

    def _path(self, link: int) -> str:
        return f"model.layers.{link - 1}"

    def _call(self, seen: Glimpse) -> Call:
        positions = self.calls[0].arguments[1]
        hidden, residual = seen.before
        assert hidden is not None
        return Call(self._path(seen.link), (positions, Given(hidden), None if residual is None else Given(residual)))

    def _expect(self, seen: Glimpse) -> Expected:
        if self._is_layer(seen.link):
            with self.rows_kept(call := self._call(seen)):
                return expect(self, call, seen.metadata)
        baseline = self._baseline(seen)
        with self.scene.subject.oracle(""):
            return Expected(baseline, self._end(seen, wide=True))

    def _baseline(self, seen: Glimpse) -> Outputs:
        if not self._is_layer(seen.link):
            return self._end(seen, wide=False)
        call = self._call(seen)
        with self.rows_kept(call):
            outputs = run_baseline(self.scene, call, seen.metadata)
            return (*outputs, *self.kv_rows(call, self.scene.kv_caches, seen.metadata.slot_mapping))

    def _end(self, seen: Glimpse, *, wide: bool) -> Outputs:
        """The first or the last link, by the referee's own model."""
        module: Any = self.scene.subject.module
        if seen.link == 0:
            return (module.model.embed_input_ids(seen.input_ids),)
        state = [t.double() if wide else t.clone() for t in seen.before if t is not None]
        hidden, _ = module.model.norm(*state)
        return (last_logits(module, hidden, seen.metadata),)

    def _check_written(self, seen: Glimpse, where: str) -> None:
        """Everything was NaN before the window, and a layer that is fed NaN gives NaN: that is no agreement."""
        before = zip(_STATE, seen.before, strict=False)
        after = zip((*_STATE, *_ROWS) if seen.link != self._head else ("logits",), seen.outputs, strict=False)
        named = [(f"{n} before it", t) for n, t in before] + [(f"{n} after it", t) for n, t in after]
        for what, tensor in named:
            if tensor is not None and not torch.isfinite(tensor).all():
                raise CandidateFault(
                    Verdict.UNWRITTEN_OUTPUT, f"{where}: {what}: not all there, or not finite. {_HINT}"
                )
