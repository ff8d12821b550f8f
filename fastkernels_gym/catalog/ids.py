"""Task ids: `<operator>@<model>[+tp<N>][:<workload>[/<phase>]]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastkernels_gym.errors import UnknownTask

GRAMMAR = "<operator>@<model>[+tp<N>][:<workload>[/<phase>]]"

_ID = re.compile(
    r"(?P<operator>[^@\s]+)@(?P<model>.+?)(?:\+tp(?P<tp>[1-9]\d{0,3}))?(?::(?P<workload>[\w*?-]+)(?:/(?P<phase>[\w*?-]+))?)?"
)


@dataclass(frozen=True, slots=True)
class TaskId:
    """The parts of a task id; in a pattern any of them but `tp` may be a glob.

    Args:
        operator: operator id.
        model: bundled name, path or hub id.
        tp: tensor-parallel size.
        workload: workload name; None for the model's default.
        phase: phase name; None for all.
    """

    operator: str
    model: str
    tp: int = 1
    workload: str | None = None
    phase: str | None = None

    def __str__(self) -> str:
        """The shortest id with these parts; `parse` reads it back."""
        text = f"{self.operator}@{self.model}"
        if self.tp != 1:
            text += f"+tp{self.tp}"
        if self.workload is not None:
            text += f":{self.workload}" + (f"/{self.phase}" if self.phase is not None else "")
        return text

    @classmethod
    def parse(cls, text: str) -> TaskId:
        """Reads an id or a pattern.

        Raises:
            UnknownTask: if the text does not follow the grammar.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise UnknownTask(f"{text!r} is no task id: {GRAMMAR}, such as L1/rms_norm@llama-3.1-8b:chat/decode")
        return cls(match["operator"], match["model"], int(match["tp"] or 1), match["workload"], match["phase"])
