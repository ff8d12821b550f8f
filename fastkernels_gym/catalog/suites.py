"""Suites: named lists of tasks of the test split, for results that can be compared."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastkernels_gym.catalog.manifest import LATEST, load_manifest
from fastkernels_gym.errors import UnknownTask

_NAME = re.compile(r"(?P<name>[a-z]+)(?:-v(?P<version>[1-9]\d{0,3}))?")


@dataclass(frozen=True, slots=True)
class Suite:
    """A list of tasks that does not change under its name and version.

    Args:
        name: `smoke`, `standard` or `full`.
        version: of the manifest that lists it.
        device: `cpu` or `cuda`; a CPU gets tasks of the tiny models.
        tasks: task ids, all of the test split.
    """

    name: str
    version: int
    device: str
    tasks: tuple[str, ...]

    @property
    def id(self) -> str:
        """The name under which results are published: `standard-v1`."""
        return f"{self.name}-v{self.version}"


def load_suite(name: str, device: str) -> Suite:
    """The suite of a name.

    Args:
        name: `smoke`, `standard` or `full`, of the latest version; `standard-v1` asks for a version.
        device: `cpu` or `cuda`.

    Raises:
        UnknownTask: if there is no such suite or version.
    """
    match = _NAME.fullmatch(name)
    version = int(match["version"] or LATEST) if match else LATEST
    known = load_manifest(min(version, LATEST)).suites
    if match is None or match["name"] not in known or version > LATEST:
        names = ", ".join(f"{suite} ({suite}-v{LATEST})" for suite in load_manifest().suites)
        raise UnknownTask(f"no suite {name!r}: there are {names}")
    return Suite(match["name"], version, device, known[match["name"]][device])
