"""The full model is judged link by link, each from the state that a pass left before it, under ever new pages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from fastkernels_gym.catalog import bundled_models, load_model_config
from fastkernels_gym.engine.batch import Batch
from fastkernels_gym.engine.step import forward_step
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.referee import numerics, settling
from fastkernels_gym.referee.judging import Outputs
from fastkernels_gym.referee.links import Glimpse, Pass
from fastkernels_gym.referee.scene import Scene
from fastkernels_gym.referee.subject import Subject
from fastkernels_gym.results import Verdict
from fastkernels_gym.tasks.baseline.forward_context import Trace

LAYERS = 3
TINY = [name for name in bundled_models() if name.startswith("tiny-")]
LENGTHS = {"prefill": ([9] * 3, [0] * 3), "decode": ([1] * 3, [20] * 3), "ragged": ([5, 17, 1], [0] * 3)}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


class Stage:
    """A scene, its pass, and the slabs that a player would hold; the referee's own model plays the player."""

    def __init__(self, model: str, phase: str) -> None:
        subject = Subject(load_model_config(model), torch.device("cpu"), LAYERS, torch.Generator().manual_seed(0))
        self.scene = Scene(subject, phase, *LENGTHS[phase], random.Random(0))
        self.program = Pass("pass", self.scene, random.Random(0))
        self.pages, self.states = self.scene.kv.new_slab(), self.program.states.new_slab()
        self.module: Any = subject.module

    def run(self, links: range = range(LAYERS + 2)) -> list[Glimpse]:
        """One window: what is seen of links, on fresh tokens, contexts and pages."""
        self.program.refresh()
        self.program.deal()
        self.program.links = tuple(links)
        return self.rerun()

    def rerun(self) -> list[Glimpse]:
        """The same window again."""
        program, order = self.program, self.program.order
        order.fill(self.pages)
        order.blank(self.pages, set(range(LAYERS)))
        self.states.bytes.fill_(0xFF)
        ids, positions = (argument.tensor for argument in program.calls[0].arguments)  # type: ignore[union-attr]
        table, slots = order.table(program.metadata.block_table), order.slots(program.metadata.slot_mapping)
        batch = Batch(ids, positions, replace(program.metadata, block_table=table, slot_mapping=slots))
        caches = [(self.pages.tensor(k), self.pages.tensor(v)) for k, v in self.scene.kv_refs]
        logits = forward_step(self.module, batch, caches, Trace(*map(self.states.tensor, program.trace)))
        return self.look((logits,))

    def look(self, logits: Outputs) -> list[Glimpse]:
        """What is taken of the links that were drawn."""
        aim = self.program.aim(self.states, self.pages, logits)
        aim.take()
        return aim.glimpses


@pytest.mark.parametrize("model", TINY)
def test_every_link_of_an_honest_pass_is_right(model: str) -> None:
    for phase in LENGTHS if model == "tiny-llama" else ("prefill", "decode"):
        stage = Stage(model, phase)
        own = stage.scene.kv.mirror.clone()
        for _ in range(2):
            for seen in stage.run():
                stage.program.compare_link(seen, phase)
                assert stage.program.judge_link(seen, phase).rms <= 1
        stage.program.judge_sample(phase)
        # The referee's pages are as they were, and so are the player's but for what the pass wrote.
        assert torch.equal(own, stage.scene.kv.mirror) and stage.program.order.intact(stage.pages)


def test_an_error_that_hides_in_the_logits_shows_in_its_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)  # of other tokens it may lie below what a pair is held to
    monkeypatch.setattr(Scene, "draw_tokens", lambda _, out: out.random_(1 << 9, generator=generator))
    stage = Stage("tiny-llama", "prefill")
    right = stage.run()
    for seen in right:
        stage.program.judge_link(seen, "x")
    mlp = stage.module.model.layers[2].mlp
    hook = mlp.register_forward_hook(lambda _, __, out: (out.view(torch.int32) & -64).view(torch.float32))
    coarse = stage.rerun()
    hook.remove()
    (ours,), (theirs,) = coarse[-1].outputs, right[-1].outputs
    assert numerics.distances([ours], [theirs], 5.3e-7) < numerics.RMS_RATIO  # type: ignore[list-item]
    for judge in (stage.program.judge_link, stage.program.compare_link):
        for seen in (*coarse[:3], coarse[4]):
            judge(seen, "x")
        with pytest.raises(CandidateFault, match="layer 2: output 0: error") as caught:
            judge(coarse[3], "x")
        assert caught.value.verdict is Verdict.WRONG_VALUE


def test_what_was_not_handed_over_is_named() -> None:
    stage = Stage("tiny-llama", "decode")
    logits = stage.run()[-1].outputs
    states, residual = map(stage.states.tensor, stage.program.trace)
    for tensor, link, what in (
        (states[1], 1, "layer 0: hidden states after it"),
        (states[1], 2, "layer 1: hidden states before it"),
        (residual[2, :1], 4, "the last layer to logits: residual before it"),
        (stage.pages.tensor(stage.scene.kv_refs[1][0]), 2, "layer 1: keys after it"),
    ):
        kept = tensor.clone()
        tensor.fill_(torch.nan)
        seen = stage.look(logits)[link]
        for judge in (stage.program.judge_link, stage.program.compare_link):
            with pytest.raises(CandidateFault, match=f"{what}.*record_layer") as caught:
                judge(seen, "x")
            assert caught.value.verdict is Verdict.UNWRITTEN_OUTPUT
        tensor.copy_(kept)


def test_pages_lie_elsewhere_in_every_window_and_are_compared_all_the_same() -> None:
    stage = Stage("tiny-llama", "decode")
    stage.run()
    before, order = stage.program.metadata.block_table, stage.program.order
    keys, _ = stage.scene.kv_refs[1]
    theirs = stage.pages.tensor(keys)[order.table(before).long()]
    ours = stage.scene.kv.tensor(keys)[before.long()]
    assert torch.equal(theirs[:, 0], ours[:, 0])  # the other page holds the pass's own token
    stage.run()
    assert not torch.equal(order.table(before), stage.program.order.table(stage.program.metadata.block_table))
    assert stage.program.order.intact(stage.pages)
    stage.pages.tensor(keys)[int(stage.program.order.table(before)[0, 0]), 3] += 1
    assert not stage.program.order.intact(stage.pages) and not stage.program.order.intact(stage.pages, 1)
    assert stage.program.order.intact(stage.pages, 0) and not order.intact(stage.pages)


def test_a_window_that_does_not_count_leaves_the_pass_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settling.SETTLES, "cpu", True)
    program = Stage("tiny-llama", "decode").program
    program.deal()
    ids = program.calls[0].arguments[0].tensor  # type: ignore[union-attr]
    kept = program.region.mirror.clone(), ids.clone(), program.metadata, program.order, program.links
    shown: list[torch.Tensor] = []

    class Player:
        def rouse(self, program: Pass, *, decoy: bool) -> None:
            assert decoy
            shown.append(program.region.decoy.clone())

    settling.settle(program, Player())  # type: ignore[arg-type]
    assert len(shown) == 1 and not torch.equal(shown[0], kept[0]), "it ran once, on tokens of its own"
    assert torch.equal(program.region.mirror, kept[0]) and torch.equal(ids, kept[1])
    assert (program.metadata, program.order, program.links) == kept[2:]
