"""What two equal candidates may differ by on a device: found by its self-test, else a default.

Two figures for each kind of timing. The spread is the relative standard deviation between fresh players that run the
same code: it widens every confidence interval, in quadrature. The dead band is what a proven speedup must exceed.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from fastkernels_gym.referee.device_state import Identity
from fastkernels_gym.referee.players import warm_cache

# To be raised with every change of what the clock measures: self-tests of another clock say nothing of this one.
CLOCK = 3
LONG_CALL_US = 20.0
FEWEST_RUNS = 10  # of a kind, for its figures to count
Z95 = 1.96  # standard deviations on either side that a 95 % interval spans
_Z90 = 1.2816  # standard deviations below which a tenth lies
_BAND_SDS = 2.0  # standard deviations of the A/A speedups, spread and noise together
_LEAST_BAND = 0.002


class Kind(StrEnum):
    """What is timed: calls over and below 20 us differ in what disturbs them, and so does the full model."""

    LONG = "op_over_20us"
    SHORT = "op_below_20us"
    E2E = "e2e"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Relative: the spread between equal players, and the dead band."""

    spread: float
    dead_band: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What the A/A runs of one kind gave.

    Args:
        runs: how many.
        sd: of the log-speedups, about 1.00x.
        covered: runs whose stated 95 % interval, the spread included, holds 1.0.
        covered_alone: the same of the statistical part of the intervals.
        spread: between players: what the statistical part leaves unexplained of `sd`, which so few runs may understate.
        dead_band: what two equal kernels are taken to differ by.
        date: of the last run, ISO 8601, UTC.
    """

    runs: int
    sd: float
    covered: int
    covered_alone: int
    spread: float
    dead_band: float
    date: str

    @classmethod
    def of(cls, samples: Sequence[tuple[float, float]], date: str) -> Self:
        """Figures of A/A runs.

        Args:
            samples: log-speedup and standard error of each, the spread not included; at least one.
            date: of the last.
        """
        count = len(samples)
        square = sum(log * log for log, _ in samples) / count
        explained = sum(error * error for _, error in samples) / count
        spread = math.sqrt(max(0.0, square * _understated(count) - explained))
        return cls(
            runs=count,
            sd=math.sqrt(square),
            covered=sum(abs(log) <= Z95 * math.hypot(error, spread) for log, error in samples),
            covered_alone=sum(abs(log) <= Z95 * error for log, error in samples),
            spread=spread,
            dead_band=max(_LEAST_BAND, _BAND_SDS * math.sqrt(square)),
            date=date,
        )

    @property
    def tolerance(self) -> Tolerance:
        return Tolerance(self.spread, self.dead_band)


def _understated(runs: int) -> float:
    """The true variance over that of this many runs, at most, in nine cases of ten.

    Intervals of too small a spread would hold the truth too seldom. The quantile of chi-square: Wilson, Hilferty, 1931.
    """
    ninth = 2 / (9 * runs)
    return 1 / (1 - ninth - _Z90 * math.sqrt(ninth)) ** 3


# Until a device is tested. CUDA: by the runs of benchmarks/results/h100-selftest.json (decisions.md).
_DEFAULTS: Mapping[str, Mapping[Kind, Tolerance]] = {
    "cpu": {Kind.LONG: Tolerance(0.01, 0.05), Kind.SHORT: Tolerance(0.01, 0.05), Kind.E2E: Tolerance(0.01, 0.05)},
    "cuda": {
        Kind.LONG: Tolerance(0.002, 0.006),
        Kind.SHORT: Tolerance(0.004, 0.01),
        Kind.E2E: Tolerance(0.0015, 0.005),
    },
}


@dataclass(frozen=True, slots=True)
class Calibration:
    """The tolerances in force on a device, and the self-test's figures that they come from.

    Args:
        tolerances: of every kind.
        figures: of the kinds that were tested; the others go by defaults.
    """

    tolerances: Mapping[Kind, Tolerance]
    figures: Mapping[Kind, Figures]

    @classmethod
    def default(cls, device_type: str) -> Self:
        """Of `cpu` or `cuda`, untested."""
        return cls(_DEFAULTS[device_type], {})

    @classmethod
    def stored(cls, device_type: str, identity: Identity) -> Self:
        """A device's own, as far as it was tested."""
        figures = {kind: found for kind, found in _read(_path(identity)).items() if found.runs >= FEWEST_RUNS}
        return cls({**_DEFAULTS[device_type], **{kind: found.tolerance for kind, found in figures.items()}}, figures)

    @property
    def without_spread(self) -> Self:
        """For the runs that are to find it."""
        bare = {kind: Tolerance(0.0, found.dead_band) for kind, found in self.tolerances.items()}
        return type(self)(bare, self.figures)

    @property
    def e2e(self) -> Tolerance:
        return self.tolerances[Kind.E2E]

    def operator(self, cases: Iterable[tuple[float, float]]) -> Tolerance:
        """An operator's: its cases' by their share of the time, as if a player were off alike in all of them.

        Args:
            cases: microseconds a call, and of all calls, of each.
        """
        totals = {Kind.LONG: 0.0, Kind.SHORT: 0.0}
        for call_us, total_us in cases:
            totals[Kind.LONG if call_us > LONG_CALL_US else Kind.SHORT] += total_us
        whole = sum(totals.values())
        shares = [(self.tolerances[kind], total / whole) for kind, total in totals.items()]
        return Tolerance(sum(t.spread * s for t, s in shares), sum(t.dead_band * s for t, s in shares))


def store(identity: Identity, figures: Mapping[Kind, Figures], document: Mapping[str, Any]) -> Path:
    """Keeps a self-test; kinds that it ran too seldom keep their earlier figures.

    Args:
        identity: of the device.
        figures: by kind.
        document: the self-test as a whole, for people to read.
    """
    path = _path(identity)
    known = {kind: found for kind, found in _read(path).items() if found.runs >= FEWEST_RUNS}
    known |= {kind: found for kind, found in figures.items() if found.runs >= FEWEST_RUNS or kind not in known}
    text = json.dumps({**document, "figures": {kind: asdict(found) for kind, found in known.items()}}, indent=1)
    write_whole(path, text + "\n")
    return path


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def age_days(date: str) -> int:
    """Days since a date of `now`."""
    return max(0, (datetime.now(UTC) - datetime.fromisoformat(date)).days)


def device_folder() -> Path:
    """Where what was measured of devices is kept, private to this user."""
    folder = warm_cache().parent / "devices"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader finds all of it or the one before."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)


def _path(identity: Identity) -> Path:
    return device_folder() / f"selftest-{CLOCK}-{identity.key}.json"


def _read(path: Path) -> dict[Kind, Figures]:
    """The figures of a stored self-test; none where there is no file, or not one that this version can read."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["figures"]
        return {Kind(kind): Figures(**found) for kind, found in stored.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
