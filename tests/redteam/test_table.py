"""The table says of every submission how it ended, and where none has run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import table
from catalogue import attacks, honest
from table import End


def end(name: str, verdict: str, *wrong: str) -> End:
    return End(name, verdict, "at most 1", wrong, "a device", "2026-01-01", "abc1234")


def line(page: str, name: str) -> str:
    (found,) = (line for line in page.splitlines() if f"| {name} |" in line)
    return found


def test_runs_on_two_devices_make_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    table.note([end("r21_zeros", "wrong_value"), end("slow", "ok"), end("r48_scan_evasion", "ok")], "cpu")
    table.note([end("r48_scan_evasion", "ok", "paid 2 | 3", "leaked")], "cpu")
    table.note([end("r43_illegal_address", "device_fault")], "cuda")
    page = table.render()
    assert "cpu | wrong_value | at most 1 | yes |" in line(page, "r21_zeros")
    assert "cuda | device_fault |" in line(page, "r43_illegal_address")
    assert line(page, "r48_scan_evasion").endswith("no: paid 2 \\| 3; leaked |")
    assert line(page, "r42_endless_kernel").endswith("not run yet: it needs a GPU |")
    assert "cpu | ok |" in line(page, "slow")
    assert f"{len(attacks())} attacks on 48 rows of the catalogue: 3 run, 1 not contained" in page
    assert f"{len(honest())} honest kernels: 1 run, 0 rejected" in page


def test_the_page_of_the_docs_is_what_the_results_make() -> None:
    page = (table.ROOT / "docs/redteam.md").read_text(encoding="utf-8")
    assert page == table.render(), "run: python tests/redteam/table.py docs/redteam.md"
