"""The referee's clock: paired bursts of the baseline's player and the candidate's, and what they say together.

A burst is a window: inputs revealed, the first n calls run by the player, every output taken back. It opens and closes
in the referee. Fixed costs cancel in the slope over n; the saving paid is never more than what the long bursts
themselves saved, so that nobody gains by dragging out the short ones, and proven is no more than what bursts of one
call bear out, so that nobody gains by working a long one off at once.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fastkernels_gym.results import Estimate

_MIN_BLOCKS = 6
_LATE_BLOCKS = 3
_SINGLE_BLOCKS = 8  # taken at a time: cheap beside the question of what they say
_RESAMPLES = 400

Burst = Callable[[int], float]
"""Runs the first n calls; seconds of the whole window."""

Block = Sequence[tuple[float, float]]


@dataclass(slots=True)
class Samples:
    """Blocks of two pairs of windows, seconds: of each pair the baseline's, then the candidate's.

    `single` are further bursts of one call, beside those of `short` that came with a long one. `fixed_s` is by how many
    seconds the fixed costs of two honest players differ; `discarded` is how many blocks were left out because the
    device was slowed down, `slowed` how many were not.
    """

    calls: int
    fixed_s: float = 0.0
    short: list[Block] = field(default_factory=list)
    long: list[Block] = field(default_factory=list)
    single: list[Block] = field(default_factory=list)
    discarded: int = 0
    slowed: int = 0

    @property
    def blocks(self) -> int:
        return len(self.long)


@dataclass(frozen=True, slots=True)
class CallTime:
    """Seconds a call, resampled: row 0 is the estimate, the others bootstrap replicates; columns as in `Samples`.

    `borne_out` are the candidate's with no more saved than bursts of one call show, or than there was to save,
    replicate by replicate; None where nothing says so. `single_saving` is what those bursts show by themselves, with
    nothing granted. `blocks` is how many there were; `resolution` by how many seconds a call the players' fixed costs
    may shift it; `discarded` and `slowed` as in `Samples`.
    """

    replicates: NDArray[np.float64]
    borne_out: NDArray[np.float64] | None = None
    single_saving: NDArray[np.float64] | None = None
    blocks: int = 1
    resolution: float = 0.0
    discarded: int = 0
    slowed: int = 0

    @property
    def baseline(self) -> float:
        return float(self.replicates[0, 0])

    @property
    def candidate(self) -> float:
        return float(self.replicates[0, 1])

    @property
    def saving(self) -> float:
        return self.baseline - self.candidate

    @property
    def shown(self) -> NDArray[np.float64]:
        """The candidate's replicates, as far as they are borne out."""
        return self.replicates[:, 1] if self.borne_out is None else self.borne_out

    @property
    def left_open(self) -> float:
        """Seconds of the saving that bursts of one call do not bear out."""
        return float(np.quantile(self.shown[1:], 0.975)) - self.candidate


class Duel:
    """Paired measurement of one program.

    Args:
        baseline: runs a burst in the baseline's player.
        candidate: runs a burst in the candidate's player.
        calls: calls of the long burst; a program of one call is timed by its windows alone.
        weight: how often the workload makes the call.
        fixed_s: by how many seconds the fixed costs of two honest players differ.
        prepare: called before each pair; both players of a pair are given the same inputs.
        check: called after each pair; judges what the windows gave.
        settle: makes a player, by its column, ready for its turn: the first window after a pause is slow, whatever runs
            in it.
        quiet: is held while the windows of a player, by its column, are timed.
        slowed: tells after each block whether the device was slowed down.
    """

    def __init__(
        self,
        baseline: Burst,
        candidate: Burst,
        calls: int,
        rng: random.Random,
        *,
        weight: float = 1.0,
        fixed_s: float = 0.0,
        prepare: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
        settle: Callable[[int], None] = lambda player: None,
        quiet: Callable[[int], AbstractContextManager[None]] = lambda player: nullcontext(),
        slowed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._players = (baseline, candidate)
        self._rng, self._prepare, self._check = rng, prepare, check
        self._settle, self._quiet, self._slowed = settle, quiet, slowed
        self._spent_s = 0.0
        self.weight = weight
        self.samples = Samples(calls, fixed_s)

    def block(self, *, late: bool = False) -> None:
        """One ABBA block in random order: every player's short and long burst, twice.

        Args:
            late: keeps the block even of a device that was slowed down.
        """
        begin = time.monotonic()
        calls = self.samples.calls
        bursts = self._bursts([1, calls] if calls > 1 else [calls], late=late)
        if bursts:
            self.samples.long.append(bursts[-1])
            self.samples.short.extend(bursts[:-1])
            self._spent_s += time.monotonic() - begin

    def singles(self) -> None:
        """Some blocks of bursts of one call."""
        for _ in range(_SINGLE_BLOCKS):
            self.samples.single.extend(self._bursts([1], late=False))

    def _bursts(self, lengths: Sequence[int], *, late: bool) -> list[Block]:
        """One block of bursts of each of these lengths; none of a device that was slowed down, unless it is late."""
        first = self._rng.randrange(2)
        taken: list[tuple[list[float], list[float]]] = [([], []) for _ in lengths]
        for pair in ((first, 1 - first), (1 - first, first)):
            self._prepare()
            for player in pair:
                with self._quiet(player):
                    self._settle(player)
                    for n, seconds in zip(lengths, taken, strict=True):
                        seconds[player].append(self._players[player](n))
            self._check()
        slowed = self._slowed()
        if slowed and not late:
            self.samples.discarded += 1
            return []
        self.samples.slowed += slowed
        return [tuple(zip(*seconds, strict=True)) for seconds in taken]

    @property
    def variance(self) -> float:
        """Of the weighted saving, as known so far; seconds squared."""
        return self._spread**2 / self.samples.blocks

    @property
    def gain(self) -> float:
        """By how much one more second of measuring would lessen the variance."""
        blocks = self.samples.blocks
        return self._spread**2 / (blocks + 1) / self._spent_s

    @property
    def _spread(self) -> float:
        """Standard deviation of one block's weighted saving, from its quartiles: outliers do not count."""
        long = np.mean(self.samples.long, axis=1)
        saved = long[:, 0] - long[:, 1]
        if self.samples.calls > 1:
            short = np.mean(self.samples.short, axis=1)
            saved = (saved - short[:, 0] + short[:, 1]) / (self.samples.calls - 1)
        low, high = np.percentile(saved, [25, 75])
        return self.weight * float(high - low) / 1.349


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it no garbage is collected: that takes 100 to 260 ms, in whoever's window it happens to fall."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measure(duels: Sequence[Duel], seconds: float, half_width: float) -> list[CallTime]:
    """Measures until the 95 % CI of all duels' common speedup is this narrow, relatively, or the time is up.

    Time goes where it narrows the interval most: to the calls that the workload makes often and that are noisy.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline
        fewest = min(duels, key=lambda duel: duel.samples.blocks)
        if fewest.samples.blocks < (_LATE_BLOCKS if late else _MIN_BLOCKS):
            fewest.block(late=late)
            continue
        if late or _rough_half_width(duels) <= half_width:
            times, weights = [call_time(duel.samples) for duel in duels], [duel.weight for duel in duels]
            if late or speedup(times, weights).half_width <= half_width:
                return times
            if speedup([replace(found, borne_out=None) for found in times], weights).half_width <= half_width:
                left_open = [weight * found.left_open for found, weight in zip(times, weights, strict=True)]
                duels[left_open.index(max(left_open))].singles()
                continue
        max(duels, key=lambda duel: duel.gain).block()


def _rough_half_width(duels: Sequence[Duel]) -> float:
    """The interval's half-width by the normal approximation: cheap enough to ask after every block."""
    total = 0.0
    for duel in duels:
        seconds = float(np.median(np.asarray(duel.samples.long)[..., 1]))
        if duel.samples.calls > 1:
            seconds -= float(np.median(np.asarray(duel.samples.short)[..., 1]))
        total += duel.weight * max(seconds, 1e-9) / max(1, duel.samples.calls - 1)
    return 1.96 * math.sqrt(sum(duel.variance for duel in duels)) / total


def call_time(samples: Samples) -> CallTime:
    """Seconds a call for both players, with bootstrap replicates over blocks."""
    rng = np.random.default_rng(0)
    blocks = samples.blocks
    picks = np.concatenate([np.arange(blocks)[None], rng.integers(0, blocks, (_RESAMPLES, blocks))])
    long = np.log(np.asarray(samples.long))
    direct = np.exp(_paired(long, picks))
    if samples.calls == 1:
        return CallTime(direct, blocks=blocks, discarded=samples.discarded, slowed=samples.slowed)
    short = np.exp(_paired(np.log(np.asarray(samples.short)), picks))
    singles = [*samples.short, *samples.single]
    further = np.concatenate([np.arange(len(singles))[None], rng.integers(0, len(singles), (_RESAMPLES, len(singles)))])
    single = np.exp(_paired(np.log(np.asarray(singles)), further))
    slope = np.maximum(direct - short, 0.02 * direct) / (samples.calls - 1)
    saving = slope[:, 0] - slope[:, 1]
    # The least saving counts, of the slope's, the whole bursts' (nobody gains by dragging out the short ones) and the
    # single calls' (nor by working a burst off at once). What noise and fixed costs make of the latter two is granted,
    # lest it bias an honest kernel downward; and they only ever take a saving away. That noise explains a saving does
    # not prove it: at the lower end of the interval what single calls leave open is not granted.
    whole, alone = direct[:, 0] - direct[:, 1], single[:, 0] - single[:, 1]
    bounds = [
        (saved + 1.96 * float(np.std(saved[1:])) + samples.fixed_s) / calls
        for saved, calls in ((whole, samples.calls), (alone, 1))
    ]
    paid = np.minimum(saving, np.maximum(0.0, np.minimum(*bounds)))
    shown = np.minimum(paid, np.maximum(0.0, alone + samples.fixed_s))
    candidate, borne_out = (np.maximum(slope[:, 0] - saved, 0.01 * slope[:, 0]) for saved in (paid, shown))
    times = np.stack([slope[:, 0], candidate], axis=1)
    resolution = samples.fixed_s / samples.calls
    return CallTime(times, borne_out, alone, blocks, resolution, samples.discarded, samples.slowed)


def speedup(times: Sequence[CallTime], weights: Sequence[float]) -> Estimate:
    """Baseline's weighted time over the candidate's, with its 95 % CI.

    Args:
        times: one a case or phase.
        weights: how often the workload makes each.
    """
    total = sum((w * t.replicates for t, w in zip(times, weights, strict=True)), start=np.zeros(()))
    ratios = total[:, 0] / total[:, 1]
    shown = total[:, 0] / sum(w * t.shown for t, w in zip(times, weights, strict=True))
    value = float(ratios[0])
    low, high = float(np.quantile(shown[1:], 0.025)), float(np.quantile(ratios[1:], 0.975))
    return Estimate(value, (min(low, value), max(high, value)))


def _paired(logs: NDArray[np.float64], picks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Robust level and robust log-ratio of the picked blocks, as (baseline, candidate) logs, one row a pick.

    Pairs count one by one: a disturbed window spoils its pair, not its block.
    """
    pairs = logs[picks].reshape(len(picks), -1, 2)
    base = np.median(pairs[..., 0], axis=1)
    ratio = _trimmed_mean(pairs[..., 1] - pairs[..., 0])
    return np.stack([base, base + ratio], axis=1)


def _trimmed_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the middle 40 % of each row."""
    cut = math.floor(0.3 * values.shape[1])
    ordered = np.sort(values, axis=1)
    trimmed: NDArray[np.float64] = ordered[:, cut : values.shape[1] - cut].mean(axis=1)
    return trimmed
