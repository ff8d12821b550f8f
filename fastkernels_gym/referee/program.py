"""Calls of one operator, ready to be run by a player: their inputs in one region, and what must come out.

The same program goes to the candidate's player and to the baseline's. Whatever a player says of its outputs is checked
against the baseline's own (`descriptions`) before anything is copied.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fastkernels_gym.player.memory import view
from fastkernels_gym.player.protocol import TensorRef
from fastkernels_gym.referee.arena import Region
from fastkernels_gym.referee.descriptions import check_outputs
from fastkernels_gym.referee.judging import Expected, Outputs, judge_together
from fastkernels_gym.referee.numerics import ErrorRatio
from fastkernels_gym.referee.pages import PageOrder
from fastkernels_gym.referee.routing import Routers
from fastkernels_gym.referee.running import Caches, run_baseline
from fastkernels_gym.referee.scene import (
    Ambient,
    Argument,
    Call,
    Given,
    Scene,
    Shared,
    flat,
    metadata_tensors,
)
from fastkernels_gym.referee.taking import Sample
from fastkernels_gym.tasks.baseline.L1.moe_align_block_size import MoeAlignBlockSize

_FRESH = (0.5, 1.5)  # times what the model computed
_LARGE = 1 << 22  # elements of a tensor


class Program:
    """Calls with one signature in one scene.

    Args:
        name: a name for messages; the region's too.
        scene: where the calls were recorded.
        calls: at least one; all of them take arguments of the same shapes.
        needs_context: whether the operator reads the forward context.

    Attributes:
        metadata: of the referee's own runs.
        order: in which players hold the scene's pages.
        slots: (tokens,) int64; where players are to write keys and values.
        samples: of its outputs, where they are large; other pieces with every refresh.
        trace: where a player leaves the states between layers, if anywhere: hidden states, then residuals.
        on_device: whether its windows are timed by the device's own clock, which takes players that have captured it.
    """

    trace: tuple[TensorRef, ...] = ()
    on_device: bool = False

    def __init__(self, name: str, scene: Scene, calls: Sequence[Call], *, needs_context: bool) -> None:
        self.name, self.scene, self.needs_context = name, scene, needs_context
        self.region = Region(name, scene.subject.device)
        self.metadata, self.order = scene.batch.metadata, scene.order
        self._metadata = {k: self.region.reserve_like(t) for k, t in metadata_tensors(scene.batch.metadata).items()}
        # Every shift's slots are an argument of their own.
        self._shifted_slots = {
            call.shift: self.region.reserve_like(scene.batch.metadata.slot_mapping) for call in calls if call.shift
        }
        if self._shifted_slots:  # an order of its own: other programs have the pages filled anew
            self.order = PageOrder(scene, torch.arange(scene.caches.shape[1], device=scene.subject.device))
        self._places = [[self._place(call, argument) for argument in call.arguments] for call in calls]
        module = scene.subject.module.get_submodule(calls[0].path)
        reference: Any = module.forward_native
        parameters = list(inspect.signature(reference).parameters)
        writable = {*getattr(module, "donates", ()), *getattr(module, "mutates", ())}
        donated = [i for i, name_ in enumerate(parameters) if name_ in getattr(module, "donates", ())]
        # An output may lie where a donated argument lay.
        self._lent = {
            (tuple(a.tensor.shape), a.tensor.stride())
            for a in (calls[0].arguments[i] for i in donated if i < len(calls[0].arguments))
            if isinstance(a, Given)
        }
        self._kept = [i for i, name_ in enumerate(parameters) if name_ not in writable]
        self.writes_kv = scene.subject.writes_kv(calls[0].path)
        self.calls = list(calls)
        self.rows = self._recorded_rows()
        self.layout = run_baseline(scene, calls[0])
        # Of the full model, whose outputs are small, all is wanted.
        self.samples = [Sample.of(out) if calls[0].path else None for out in self.layout]
        layouts = [
            None if t is None else (t.shape, torch.empty(t.shape, device="meta").stride(), t.dtype) for t in self.layout
        ]
        on_host = scene.subject.device.type == "cpu"
        self.out = [[self.region.reserve(*o) if o and on_host else None for o in layouts] for _ in calls]
        floats = [list(self._floats_of(index)) for index in range(len(calls))]
        self._float_refs = [ref for found in floats for ref, _ in found]
        self._originals = [original for found in floats for _, original in found]
        self._first_floats = len(floats[0])
        self._views: dict[int, list[torch.Tensor]] = {}
        for ref in (ref for slots in self.out for ref in slots if ref is not None):
            flat(self.region.tensor(ref)).view(torch.uint8).random_()  # what is not written is nothing in particular
        self.fill(self.calls)
        self.fill_metadata()

    def _floats_of(self, index: int) -> Iterator[tuple[TensorRef, torch.Tensor]]:
        """Places of a call's floating-point inputs, and what the model computed, as plain memory."""
        for ref, argument in zip(self._places[index], self.calls[index].arguments, strict=True):
            if ref is not None and isinstance(argument, Given) and argument.tensor.is_floating_point():
                if argument.tensor.numel():
                    yield ref, flat(argument.tensor)

    def _place(self, call: Call, argument: Argument) -> TensorRef | None:
        if isinstance(argument, Given):
            return self.region.reserve_like(argument.tensor)
        if isinstance(argument, Ambient):
            shifted = call.shift and argument.name == "slot_mapping"
            return self._shifted_slots[call.shift] if shifted else self._metadata[argument.name]
        return argument.ref if isinstance(argument, Shared) else None

    def _recorded_rows(self) -> dict[TensorRef, torch.Tensor]:
        """Rows of the pages that calls are handed as arguments: later passes of the scene overwrite them."""
        slots = self.scene.batch.metadata.slot_mapping
        given = {a.ref for call in self.calls for a in call.arguments if isinstance(a, Shared)} & self.scene.pages
        return {ref: self.scene.kv.tensor(ref).flatten(0, 1)[slots] for ref in given}

    @cached_property
    def _module(self) -> nn.Module:
        return self.scene.subject.module.get_submodule(self.calls[0].path)

    @cached_property
    def routed(self) -> bool:
        """Whether near ties decide what is right for a row; the full model's rows mix all tokens' routing."""
        return bool(self.calls[0].path and Routers(self._module).count)

    @cached_property
    def sampled(self) -> bool:
        """Whether pieces of a large output can be judged: not where rows leave, or where their order is free."""
        return not self.routed and not hasattr(self._module, "canonical")

    def unsettled(self, call: Call, noise: tuple[float, ...]) -> torch.Tensor | None:
        """Which rows of a routed call hang on near ties: (rows,) bool; None where none does.

        Args:
            call: with any inputs.
            noise: RMS error of the scores that each of the baseline's routers is handed.
        """
        routers = Routers(self.scene.subject.module.get_submodule(call.path))
        with routers.heard() as heard, self.rows_kept(call):
            run_baseline(self.scene, call, self.metadata)
        return routers.near_ties(heard, noise, rounded=True)

    def found_in(self, private: torch.Tensor, index: int) -> Call:
        """A call with the inputs that mirror or decoy has for it."""
        call = self.calls[index]
        arguments = tuple(
            Given(view(private, ref)) if ref is not None and isinstance(argument, Given) else argument
            for ref, argument in zip(self._places[index], call.arguments, strict=True)
        )
        return replace(call, arguments=arguments)

    @contextmanager
    def rows_kept(self, call: Call) -> Iterator[None]:
        """Within it runs of a call may write into the referee's own pages; what they wrote is put right."""
        layer = self.kv_layer(call)
        caches = () if layer is None else self.scene.kv_caches[layer]
        slots = self.scene.batch.metadata.slot_mapping + call.shift
        kept = [cache.flatten(0, 1)[slots] for cache in caches]
        try:
            yield
        finally:
            for cache, rows in zip(caches, kept, strict=True):
                cache.flatten(0, 1)[slots] = rows

    @contextmanager
    def rows_as_recorded(self) -> Iterator[None]:
        """Within it the referee's own pages hold the rows that calls are handed, which other passes overwrite."""
        slots = self.metadata.slot_mapping
        caches = {ref: self.scene.kv.tensor(ref).flatten(0, 1) for ref in self.rows}
        kept = {ref: cache[slots] for ref, cache in caches.items()}
        try:
            for ref, rows in self.rows.items():
                caches[ref][slots] = rows
            yield
        finally:
            for ref, rows in kept.items():
                caches[ref][slots] = rows

    def refresh(self) -> None:
        """Gives every call inputs that no player has seen: what was remembered of the last ones is wrong.

        The last ones become the decoy.
        """
        torch.seed()  # or a CPU's generator could be told from the draws that players have seen
        self.region.swap()
        for sample in self.samples:
            if sample is not None:
                sample.draw()
        if self._originals:
            _draw(self._floats_in(self.region.mirror), self._originals)
            return
        for places, call in zip(self._places, self.calls, strict=True):
            ref, ids = places[0], call.arguments[0]  # ids come first: tokens, or chosen experts
            assert ref is not None and isinstance(ids, Given)
            self._draw_ids(ids.tensor, call)
            self.region.tensor(ref).copy_(ids.tensor)

    def draw_first(self) -> list[torch.Tensor]:
        """Inputs of the first call that no player has seen."""
        drawn = [torch.empty_like(place) for place in self._first_in_decoy()]
        if self._originals:
            _draw(drawn, self._originals)
        else:
            self._draw_ids(drawn[0], self.calls[0])
        return drawn

    def put_first(self, inputs: Sequence[torch.Tensor]) -> None:
        """Puts inputs of the first call into the decoy."""
        torch._foreach_copy_(self._first_in_decoy(), list(inputs))

    @property
    def touches_pages(self) -> bool:
        """Whether its calls read or write keys and values."""
        return self.writes_kv or bool(self.rows)

    def shuffle_pages(self) -> None:
        """Draws the order in which players are to hold the pages."""
        self.order = PageOrder(self.scene, self.scene.shuffled(self.scene.caches.shape[1]))
        self.fill_metadata()

    def deal(self) -> None:
        """Puts the pages in a new order: what was kept of keys and values by their place is wrong.

        Contexts of one length go to other sequences too.
        """
        table, slots = self.metadata.block_table, self.metadata.slot_mapping
        if len({*self.scene.query_lens}) == len({*self.scene.context_lens}) == 1:
            dealt = self.scene.shuffled(len(table))
            slots = slots.view(len(table), -1)[dealt].flatten()
            self.metadata = replace(self.metadata, block_table=table[dealt], slot_mapping=slots)
        self.shuffle_pages()

    def _first_in_decoy(self) -> list[torch.Tensor]:
        """What of the first call is drawn: its floats, else its ids."""
        if self._originals:
            return self._floats_in(self.region.decoy)[: self._first_floats]
        ids = self._places[0][0]
        assert ids is not None
        return [view(self.region.decoy, ids)]

    def _draw_ids(self, out: torch.Tensor, call: Call) -> None:
        """Tokens; or the experts that a call was handed, by other names and for other tokens."""
        if not isinstance(self._module, MoeAlignBlockSize):
            self.scene.draw_tokens(out)
            return
        chosen, _, num_experts = call.arguments
        assert isinstance(chosen, Given) and isinstance(num_experts, int)
        renamed = self.scene.shuffled(num_experts)[chosen.tensor.long()]
        out.copy_(renamed[self.scene.shuffled(len(renamed))])

    def _floats_in(self, private: torch.Tensor) -> list[torch.Tensor]:
        """The calls' floating-point inputs in mirror or decoy, as plain memory.

        Hundreds of views, made once: `refresh` stands between windows.
        """
        if private.data_ptr() not in self._views:
            self._views[private.data_ptr()] = [flat(view(private, ref)) for ref in self._float_refs]
        return self._views[private.data_ptr()]

    def fill(self, calls: Sequence[Call]) -> None:
        """Puts the arguments of calls into the mirror, from the first on."""
        for places, call in zip(self._places, calls, strict=False):
            for ref, argument in zip(places, call.arguments, strict=True):
                if ref is not None and isinstance(argument, Given):
                    self.region.tensor(ref).copy_(argument.tensor)

    def fill_metadata(self) -> None:
        """Puts the metadata into mirror and decoy, by the pages as players hold them."""
        tensors = metadata_tensors(self.metadata)
        self.slots = self.order.slots(self.metadata.slot_mapping)
        tensors |= {"block_table": self.order.table(self.metadata.block_table), "slot_mapping": self.slots}
        places = {self._metadata[key]: tensor for key, tensor in tensors.items()}
        places |= {ref: self.slots + shift for shift, ref in self._shifted_slots.items()}  # in the same page
        for ref, tensor in places.items():
            for private in (self.region.mirror, self.region.decoy):
                view(private, ref).copy_(tensor)

    @property
    def lengths(self) -> list[int]:
        """The burst lengths that are timed: one call, and all of them."""
        return sorted({1, len(self.calls)})

    def message(self) -> dict[str, Any]:
        """The `prepare` command."""
        metadata = self.scene.batch.metadata
        fields = {key: ref.to_json() for key, ref in self._metadata.items()}
        numbers = {"max_query_len": metadata.max_query_len, "max_seq_len": metadata.max_seq_len}
        kv = [[k.to_json(), v.to_json()] for k, v in self.scene.kv_refs]
        described: dict[str, Any] = {**fields, **numbers}
        trace = [ref.to_json() for ref in self.trace]
        contexts = [{"metadata": described, "kv": kv, "trace": trace}] if self.needs_context else []
        return {
            "op": "prepare",
            "stage": "prepare",
            "name": self.name,
            "contexts": contexts,
            "calls": [
                {
                    "path": call.path,
                    "args": [
                        {"v": a} if ref is None else {"t": ref.to_json()}
                        for a, ref in zip(call.arguments, places, strict=True)
                    ],
                    "context": 0 if self.needs_context else None,
                    "out": [None if ref is None else ref.to_json() for ref in slots],
                }
                for call, places, slots in zip(self.calls, self._places, self.out, strict=True)
            ],
            # An operator's own launches hide behind the device's work in a pass: what it costs there is a graph's time.
            "graph": self.scene.graph or bool(self.calls[0].path),
            "lengths": self.lengths,
        }

    def check_layout(self, described: Any) -> None:
        """Holds what a player says its outputs look like against the baseline's; raises as `check_outputs` does."""
        check_outputs(described, len(self.calls), self.layout, self._lent)

    def judge(self, outputs: Callable[[int], Outputs], expected: Mapping[int, Expected], name: str) -> ErrorRatio:
        """The worst error ratio: of each call that has rows enough by itself, of all together where they have not.

        Args:
            outputs: a call's, by its index.
            expected: of the calls that are judged.
            name: of what is judged, for messages.

        Raises:
            CandidateFault: wrong_value or unwritten_output.
        """
        calls = [(outputs(index), truth) for index, truth in expected.items()]
        groups = [calls] if self.scene.fewest_calls > 1 else [[call] for call in calls]
        ratios = [judge_together(name, group) for group in groups]
        return ErrorRatio(max(ratio.rms for ratio in ratios), max(ratio.max for ratio in ratios))

    def kept_inputs(self, index: int) -> Iterator[TensorRef]:
        """The places of a call's arguments that it may not change."""
        for position, argument in enumerate(self.calls[index].arguments):
            ref = self._places[index][position]
            if ref is not None and isinstance(argument, Given | Ambient) and position in self._kept:
                yield ref

    def kv_rows(self, call: Call, caches: Caches, slots: torch.Tensor) -> Outputs:
        """The KV rows that a call writes, keys then values, out of the slots of `caches` (one pair a layer)."""
        layer = self.kv_layer(call)
        return () if layer is None else tuple(cache.flatten(0, 1)[slots + call.shift] for cache in caches[layer])

    @cached_property
    def calls_of_layers(self) -> dict[int, torch.Tensor]:
        """Of calls that write KV rows, by layer: by how much each one's slots are shifted, (calls,) int64."""
        shifts: dict[int, list[int]] = {}
        for call in self.calls:
            if (layer := self.kv_layer(call)) is not None:
                shifts.setdefault(layer, []).append(call.shift)
        return {layer: torch.tensor(found, device=self.slots.device) for layer, found in shifts.items()}

    def kv_layer(self, call: Call) -> int | None:
        if not self.writes_kv or not call.path:
            return None
        found = re.search(r"\blayers\.(\d+)\b", call.path)
        return int(found[1]) if found else None


def _draw(targets: list[torch.Tensor], originals: Sequence[torch.Tensor]) -> None:
    """Fills tensors with what the model computed, the first of it, each element times a factor of its own."""
    sizes = [target.numel() for target in targets]
    if max(sizes) >= _LARGE:
        for target in targets:
            target.uniform_(*_FRESH)
    else:  # all at once: hundreds of draws would be a kernel each
        share = torch.empty(sum(sizes), dtype=targets[0].dtype, device=targets[0].device).uniform_(*_FRESH)
        torch._foreach_copy_(targets, list(share.split(sizes)))
    torch._foreach_mul_(targets, list(originals[: len(targets)]))
