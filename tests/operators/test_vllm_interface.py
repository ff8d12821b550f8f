"""Our signatures are vLLM's, but for the differences that docs/vllm_mirror.md explains: those and no others."""

import inspect
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fastkernels_gym.catalog.operators import operators

TABLE: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("vllm_interface.toml").read_text())
DOCUMENT = (Path(__file__).parents[2] / "docs" / "vllm_mirror.md").read_text()
OURS = {operator.class_name: operator for operator in operators().values()}
METHODS = {"init": ("__init__", "__init__"), "forward": ("forward", "forward_native")}
SIGNATURES = [(name, part) for name, row in TABLE.items() for part in METHODS if part in row]

Parameters = dict[str, tuple[bool, str | None]]


def spelled(text: str) -> Parameters:
    """`a, b=1, *, c=None, **d`: each name, whether it must be named, and its default's spelling."""
    found: Parameters = {}
    named = False
    for part in re.split(r",\s*", text):
        name, _, default = part.partition("=")
        named |= name == "*"
        if name != "*":
            found[name] = (named and not name.startswith("**"), default or None)
    return found


def written(method: Any) -> Parameters:
    """The same of a method of ours."""
    found: Parameters = {}
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        default = None if parameter.default is parameter.empty else repr(parameter.default)
        name = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "") + parameter.name
        found[name] = (parameter.kind is parameter.KEYWORD_ONLY, default)
    return found


def differences(theirs: Parameters, ours: Parameters) -> set[str]:
    """`-a` is vLLM's alone, `+a` ours alone, `a=1` is ours; `order` says that those of both are rearranged."""
    shared = [name for name in theirs if name in ours]
    found = {f"-{name}" for name in theirs.keys() - ours.keys()}
    found |= {f"+{name}" for name in ours.keys() - theirs.keys()}
    changed = {name: ours[name][1] for name in shared if ours[name] != theirs[name]}
    found |= {name if default is None else f"{name}={default}" for name, default in changed.items()}
    return found | ({"order"} if shared != [name for name in ours if name in theirs] else set())


def documented() -> dict[str, set[str]]:
    """The differences that the document's table of signatures lists, by `Class.method`."""
    section = DOCUMENT.partition("## Signatures")[2].partition("\n## ")[0]
    listed: dict[str, set[str]] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].startswith("`"):
            assert len(cells) == 3 and cells[2], f"{cells[0]} is not explained"
            for place in re.findall(r"`([^`]+)`", cells[0]):
                listed.setdefault(place, set()).update(re.findall(r"`([^`]+)`", cells[1]))
    return listed


@pytest.mark.parametrize(("name", "part"), SIGNATURES)
def test_a_signature_is_vllms_but_for_the_documented_differences(name: str, part: str) -> None:
    public, method = METHODS[part]
    ours = getattr(import_module(OURS[name].module), name)
    found = differences(spelled(TABLE[name][part]), written(getattr(ours, method)))
    assert found == documented().get(f"{name}.{public}", set())


def test_every_documented_difference_is_of_a_signature_in_the_table() -> None:
    assert documented().keys() <= {f"{name}.{METHODS[part][0]}" for name, part in SIGNATURES}


def test_every_operator_is_in_the_table_or_has_no_counterpart() -> None:
    section = DOCUMENT.partition("### Without a counterpart")[2].partition("\n#")[0]
    alone = set(re.findall(r"^- `([^`]+)`", section, re.MULTILINE))
    assert not alone & {name for name, row in TABLE.items() if len(row) == 3}
    assert alone | TABLE.keys() == OURS.keys()


def test_differences_are_told_apart() -> None:
    theirs = spelled("a, b=1, *, c='x', **rest")
    assert theirs == {"a": (False, None), "b": (False, "1"), "c": (True, "'x'"), "**rest": (False, None)}
    assert differences(theirs, theirs) == set()
    assert differences(theirs, spelled("b=2, a, d=None")) == {"-c", "-**rest", "+d", "b=2", "order"}
    assert differences(theirs, spelled("a=0, b, c='x', **rest")) == {"a=0", "b", "c='x'"}
