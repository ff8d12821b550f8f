"""What is recorded of a model's pass to make a program: the calls of one case, as many as a burst needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fastkernels_gym.catalog import Case
from fastkernels_gym.referee.roofline import own_bytes
from fastkernels_gym.referee.scene import Ambient, Call, Given, Scene
from fastkernels_gym.referee.session import Session

_BURST_S = 2e-3  # what a long burst should last, so that a window's own jitter is small beside it
_LEAST_CALL_S = 2e-6  # of the smallest kernel in a graph
_FEWEST_CALLS = 4  # of a program
_LARGE_CALLS = 10  # of a burst, where a handful takes as much memory as a burst of small ones may
_MOST_CALLS = {"cpu": 16, "cuda": 512}
_LONGEST_S = {"cpu": 1.0, "cuda": 0.1}  # of a long burst of a slow candidate: far from what jitter can blur
_FORGOTTEN = 0.02  # of the times that recordings are asked for
_MOST_PASSES = 128  # of the model, to record them
# Inputs and outputs of a program's calls: far over any cache. Where small kernels' lie further apart than this, equal
# players differ by it; large ones take as long to copy as to compute, and a burst is to outlast the copies' jitter.
_MOST_BYTES, _MOST_BYTES_OF_LARGE, _LARGE = 1 << 29, 1 << 31, 8 << 20


def record(session: Session, case: Case, scene: Scene, most: int) -> list[Call]:
    """Calls of a case in a scene: as many as asked, but no row of a KV page is written by two of them."""
    hidden = scene is not session.scenes[case.phase]
    paths = _paths(session, case)
    each = _calls_of_a_path(case)
    wanted = dict.fromkeys(session.rng.sample(paths, min(len(paths), most)), each)
    most = min(most, _MOST_PASSES * each * len(wanted))
    shapes = Counter(arg.shape for arg in case.args if arg.is_tensor)

    def a_pass() -> list[Call]:
        return [call for call in scene.record(wanted) if hidden or not _shapes(call) - shapes]

    calls = a_pass()
    writes, shift = scene.subject.writes_kv(case.paths[0]), 0
    while calls and len(calls) < most:
        if writes:  # elsewhere, where it is told where: an operator that reads what it writes is not
            told = any(isinstance(a, Ambient) and a.name == "slot_mapping" for a in calls[0].arguments)
            if not told or shift == scene.spare_rows:
                break
            shift += 1
        calls += [replace(call, shift=shift) for call in a_pass()]
    return calls[:most]


def recorded(session: Session, case: Case, scene: Scene, most: int) -> list[Call]:
    """As `record`, but what was recorded for an earlier candidate serves again: a burst takes passes of the full model.

    Inputs say little, since windows that are timed find others; all the same they are drawn anew now and then, lest
    feedback tell them bit by bit. The oldest give way where they take more than one operator's may.
    """
    kept, key = session.recordings, (case, scene.name, most)
    if session.rng.random() < _FORGOTTEN:
        kept.clear()
    if key not in kept:
        kept[key] = record(session, case, scene, most)
        while len(kept) > 1 and sum(map(_bytes, kept.values())) > session.pool_bytes:
            del kept[next(iter(kept))]
    return kept[key]


def calls_a_pass(session: Session, case: Case) -> int:
    """How often one pass at the session's depth makes a case's call."""
    return _calls_of_a_path(case) * len(_paths(session, case))


def burst_length(scene: Scene, call: Call, least_s: float, room_bytes: int) -> int:
    """Calls enough for a burst of some length, but no more than memory holds.

    Args:
        scene: where they are recorded.
        call: one of them.
        least_s: what one takes at least.
        room_bytes: for the inputs and outputs of all.
    """
    device = scene.subject.device.type
    enough = max(_FEWEST_CALLS, math.ceil(_BURST_S / max(least_s, _LEAST_CALL_S)))
    each = max(1, own_bytes(scene, call))
    most = _MOST_BYTES if each < _LARGE else max(_MOST_BYTES_OF_LARGE, _LARGE_CALLS * each)
    room = max(_FEWEST_CALLS, min(room_bytes, most) // each)
    return min(enough, room, _MOST_CALLS[device])


def affordable_length(scene: Scene, calls: int, seconds: float) -> int:
    """Calls of a burst that a slow candidate ends in reasonable time.

    Args:
        scene: where they were recorded.
        calls: of a burst.
        seconds: that it took.
    """
    longest = _LONGEST_S[scene.subject.device.type]
    fewest = max(_FEWEST_CALLS, scene.fewest_calls)
    return calls if seconds <= longest else min(calls, max(fewest, math.ceil(calls * longest / seconds)))


def _paths(session: Session, case: Case) -> list[str]:
    return [path for path in case.paths if _depth(path) < session.num_layers]


def _calls_of_a_path(case: Case) -> int:
    return max(1, case.count // len(case.paths))  # a shared module is called by every layer


def _bytes(calls: Sequence[Call]) -> int:
    return sum(a.tensor.nbytes for call in calls for a in call.arguments if isinstance(a, Given))


def _depth(path: str) -> int:
    """The layer that a path lies in; 0 for what lies in none."""
    parts = path.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else 0


def _shapes(call: Call) -> Counter[tuple[int, ...] | None]:
    return Counter(tuple(a.tensor.shape) for a in call.arguments if isinstance(a, Given))
