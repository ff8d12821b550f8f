"""Attacks and honest kernels, one submission a file, and what must be true after each of them.

A file's leading comment names the row of the catalogue and its idea, then one `key: value` a line:

    task, measure    what it is judged on; a small operator, by itself, where nothing is said; of a model by device
    device           `cuda` for what needs a GPU, or takes a CPU too long
    expect           the verdicts that it may end with; `none` where the reply holds no candidate
    open             why it is not contained, or not accepted, yet, and what would mend that
    runs             how often it is submitted, one submission after the other
    hurried          judged under short deadlines
    interpret        needs players that interpret Triton
    compiles         for so long that an evaluation is little else

An attack that needs no GPU is held to its verdicts on a CPU; on a GPU it may end as it likes, but for what else must
be true. A Markdown file is the reply of an agent.
"""

from __future__ import annotations

import os
import re
import socket
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fastkernels_gym import EvalRequest, Evaluation, Evaluator
from fastkernels_gym.candidate import parse_reply
from fastkernels_gym.results import Verdict
from fastkernels_gym.tasks.baseline.L1 import silu_and_mul

MODELS = {"cpu": "tiny-llama", "cuda": "llama-3.1-8b"}
_OPERATOR = "L1/silu_and_mul"
NO_CANDIDATE = "none"
MARK = "fastkernels-redteam"
LOOT = "LOOT"
LONGEST_FEEDBACK = 10_000
_FOLDER = Path(__file__).parent
_PORT = 48739
_SPARE_DESCRIPTORS = 8  # slabs that the baseline's player is handed at their first use


@dataclass(frozen=True, slots=True)
class Submission:
    """One file: what an attacker, or an honest author, sends."""

    name: str
    idea: str
    data: bytes
    expect: frozenset[str] = frozenset({"ok"})
    row: int = 0
    task: str = _OPERATOR
    measure: str = "op"
    device: str = "cpu"
    open: str = ""
    runs: int = 1
    hurried: bool = False
    interpret: bool = False
    compiles: bool = False

    @property
    def source(self) -> bytes | str | None:
        """What the evaluator is given; None where a reply holds no candidate."""
        return parse_reply(self.data.decode()) if self.name.endswith(".md") else self.data

    @property
    def strict(self) -> bool:
        """Whether it needs an evaluator of its own kind: short deadlines, players that interpret Triton."""
        return self.hurried or self.interpret

    def task_on(self, device: str) -> str:
        return self.task if "@" in self.task else f"{self.task}@{MODELS[device]}"

    def may_end_with(self, verdict: str, device: str) -> bool:
        """Whether the verdict is as it must be on a device, by the name that evaluations give it."""
        elsewhere = self.device == "cpu" and not device.startswith("CPU")
        return verdict in self.expect or (self.row > 0 and elsewhere and verdict != Verdict.INFRA_ERROR)

    @classmethod
    def read(cls, path: Path) -> Submission:
        data = path.read_bytes()
        head = re.match(rb"(?:#.*\n)+", data)
        assert head is not None, f"{path.name} does not say what it is"
        title, *lines = [line.lstrip("# ") for line in head[0].decode().splitlines()]
        keys = dict(line.split(": ", 1) for line in lines if ": " in line)
        number, _, idea = title.partition(": ")
        device = keys.get("device", "cpu")
        return cls(
            name=path.name if path.suffix == ".md" else path.stem,
            idea=idea,
            data=data,
            expect=frozenset(keys.get("expect", "ok").split(", ")),
            row=int(number.removeprefix("Row ")) if number.startswith("Row ") else 0,
            task=keys.get("task", _OPERATOR),
            measure=keys.get("measure", "op"),
            device=device,
            open=keys.get("open", ""),
            runs=int(keys.get("runs", "1")),
            hurried="hurried" in keys,
            interpret="interpret" in keys,
            compiles="compiles" in keys,
        )


def attacks() -> list[Submission]:
    """All attacks, by row."""
    found = [Submission.read(path) for path in (_FOLDER / "attacks").iterdir()]
    return sorted([*found, *_BYTES], key=lambda attack: (attack.row, attack.name))


def honest() -> list[Submission]:
    """All honest kernels."""
    return [*(Submission.read(path) for path in sorted((_FOLDER / "honest").iterdir())), _BASELINE]


def find(name: str) -> Submission:
    return next(one for one in [*honest(), *attacks()] if one.name == name)


_BASELINE = Submission("baseline", "the baseline unchanged.", Path(silu_and_mul.__file__).read_bytes())
# What would be no text file.
_BYTES = [
    Submission(f"r46_{name}", f"{idea}.", data, frozenset({verdict}), 46)
    for name, idea, data, verdict in (
        ("empty", "an empty file", b"", "interface_mismatch"),
        ("megabyte", "a megabyte", b"#" * (1 << 20), "policy_reject"),
        ("null_bytes", "null bytes", b"class SiluAndMul:\0 pass", "policy_reject"),
        ("not_utf8", "bytes that are not UTF-8", b"class SiluAndMul: pass  # \xff\xfe", "policy_reject"),
    )
]


def complaints(one: Submission, evaluation: Evaluation) -> Iterator[str]:
    """What is wrong with how a submission ended: an attack was paid, or any verdict is not what was expected."""
    # A forged speedup that is only too noisy to be paid is a forged speedup all the same.
    if one.row and evaluation.replace(stable=True).paid:
        yield f"paid {evaluation.reward:.3g}"
    if not one.may_end_with(evaluation.verdict, evaluation.device):
        yield f"{evaluation.verdict}, expected {', '.join(sorted(one.expect))}"
    text = evaluation.feedback
    if LOOT in text:
        yield f"leaked {text[text.index(LOOT) :]}"
    if len(text) > LONGEST_FEEDBACK:
        yield f"feedback of {len(text)} characters"
    if any(unicodedata.category(letter) in ("Cc", "Cf") and letter not in "\n\t" for letter in text):
        yield "control characters in the feedback"


@dataclass(frozen=True, slots=True)
class Traces:
    """What the evaluators of this process occupy on the machine."""

    referees: frozenset[int]
    processes: int
    descriptors: int
    rss_bytes: int

    @classmethod
    def take(cls) -> Traces:
        pids = _descendants(os.getpid())
        referees = frozenset(pid for pid in pids if "fastkernels_gym.executor.worker" in _arguments(pid))
        return cls(
            referees,
            len(pids),
            sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in referees),
            sum(map(_resident_bytes, referees)),
        )

    def complaints(self, before: Traces) -> Iterator[str]:
        """What is left of an evaluation, or lost by it."""
        if not before.referees <= self.referees:
            yield "the referee died"
        elif self.processes > before.processes:
            yield f"{self.processes - before.processes} processes are left"
        elif self.descriptors > before.descriptors + _SPARE_DESCRIPTORS:
            yield f"{self.descriptors - before.descriptors} descriptors are left in the referee"
        for folder in ("/tmp", "/dev/shm", Path.home(), "."):
            if Path(folder, MARK).exists():
                yield f"a file is left in {folder}"


def submit(evaluator: Evaluator, one: Submission, budget_s: float = 0.3) -> list[Evaluation]:
    """Has a submission judged, as often as it asks for."""
    source, task = one.source, one.task_on(evaluator.device)
    assert source is not None
    request = partial(EvalRequest, task, source, one.measure, budget_s=budget_s)  # type: ignore[arg-type]
    return [evaluator.submit(request()).result() for _ in range(one.runs)]


def settled(before: Traces, *, within_s: float = 3.0) -> list[str]:
    """What is left of an evaluation once the dying have died."""
    deadline = time.monotonic() + within_s
    while (left := list(Traces.take().complaints(before))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@contextmanager
def canaries() -> Iterator[None]:
    """Something to find on the machine: listeners, shared memory, a secret in the environment."""
    with socket.socket() as loopback, socket.socket(socket.AF_UNIX) as local:
        with suppress(OSError):  # whoever listens there instead is as good
            loopback.bind(("127.0.0.1", _PORT))
            loopback.listen()
        with suppress(OSError):
            local.bind(f"\0{MARK}")
            local.listen()
        shared = Path("/dev/shm", f"{MARK}-canary")
        shared.write_text("secret")
        try:
            yield
        finally:
            shared.unlink(missing_ok=True)


def _descendants(root: int) -> list[int]:
    pids = [root]
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                pids.extend(map(int, task.read_text().split()))
    return pids[1:]


def _arguments(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return []


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
