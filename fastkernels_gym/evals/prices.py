"""What tokens cost: an editable table, by globs of LLMs' names (`prices.toml`)."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

from fastkernels_gym.agent import Usage
from fastkernels_gym.errors import UserError

_PACKAGED = Path(__file__).with_name("prices.toml")
_KINDS = ("input", "cached", "output", "reasoning")
_FORM = """[[price]] with models = ["NAME*"], input = 1.0, output = 2.0 and, where they differ, cached and reasoning"""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens.

    Args:
        models: globs of the names of the LLMs that cost this.
        input: of prompt tokens.
        output: of completion tokens.
        cached: of prompt tokens that the server had cached; None for the price of others.
        reasoning: of completion tokens spent on reasoning; None for the price of others.
        packaged: whether it is of the package's own table, which nobody has checked.
    """

    models: tuple[str, ...]
    input: float
    output: float
    cached: float | None = None
    reasoning: float | None = None
    packaged: bool = False

    def dollars(self, usage: Usage) -> float:
        """What tokens cost; a server that reports more cached tokens than tokens is not believed."""
        prompt, completion = max(usage.prompt_tokens, 0), max(usage.completion_tokens, 0)
        cached = min(max(usage.cached_tokens, 0), prompt)
        reasoning = min(max(usage.reasoning_tokens, 0), completion)
        return (
            (prompt - cached) / 1e6 * self.input
            + cached / 1e6 * (self.input if self.cached is None else self.cached)
            + (completion - reasoning) / 1e6 * self.output
            + reasoning / 1e6 * (self.output if self.reasoning is None else self.reasoning)
        )


@dataclass(frozen=True, slots=True)
class Prices:
    """A price table; the first entry that matches counts."""

    entries: tuple[Price, ...] = ()

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """The package's table, after that of a file where one is named.

        Raises:
            UserError: if the file cannot be read or is no price table.
        """
        own = _read(path) if path is not None else ()
        return cls((*own, *(replace(price, packaged=True) for price in _read(_PACKAGED))))

    def find(self, *llms: str | None) -> Price | None:
        """The price of the first of an LLM's names that has one."""
        for llm in filter(None, llms):
            for price in self.entries:
                if any(fnmatchcase(llm, pattern) for pattern in price.models):
                    return price
        return None

    def caveat(self, *llms: str | None) -> str:
        """What to say behind dollars: nothing where they are by the user's own prices."""
        price = self.find(*llms)
        return " (by the package's unchecked list: give prices with --prices)" if price and price.packaged else ""


def _read(path: Path) -> tuple[Price, ...]:
    try:
        found: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is no TOML: {error}; a price is {_FORM}") from error
    entries = found.get("price")
    if set(found) != {"price"} or not isinstance(entries, list):
        raise UserError(f"{path} is no price table: it consists of {_FORM}")
    return tuple(_price(path, number, entry) for number, entry in enumerate(entries, 1))


def _price(path: Path, number: int, entry: object) -> Price:
    if not isinstance(entry, dict) or not {"models", "input", "output"} <= set(entry) <= {"models", *_KINDS}:
        raise UserError(f"{path}, price {number} is none: it is {_FORM}")
    models = entry["models"]
    if not _are_names(models) or not all(_is_amount(entry[kind]) for kind in _KINDS if kind in entry):
        raise UserError(f"{path}, price {number}: models are names, prices dollars of 0 or more: {_FORM}")
    amounts: dict[str, Any] = {kind: float(entry[kind]) for kind in _KINDS if kind in entry}
    return Price(tuple(models), **amounts)


def _are_names(found: object) -> bool:
    return isinstance(found, Sequence) and not isinstance(found, str) and all(isinstance(name, str) for name in found)


def _is_amount(found: object) -> bool:
    return type(found) in (int, float) and math.isfinite(found) and found >= 0  # type: ignore[arg-type,operator]
