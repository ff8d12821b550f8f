"""The report: what its file holds, and what a person who opens it in a browser sees."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.cli.app import run as fk_gym
from fastkernels_gym.errors import RunFolderError
from fastkernels_gym.evals import Rollout, RunConfig, RunFolder
from fastkernels_gym.evals.archive import read_run
from fastkernels_gym.evals.report import write_report
from fastkernels_gym.evals.report.page import script_data
from fastkernels_gym.evals.report.source import compare, highlight, shown
from fastkernels_gym.results import Evaluation, Verdict

TASK = "L1/rms_norm@tiny-llama"
ATTACK = (
    "</script></ScRiPt ><script>window.owned = 1</script><!-- <script> <img src=x onerror='window.owned = 1'>"
    "\"'>{{ 7 * 7 }}{% raw %}]]></pre></title>\u202e\u2028\u2029\x00\x1b[31m\ud800"
)


class Elements(HTMLParser):
    """The start tags of a page, with attributes, and the texts of its data scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, Any] = {}
        self._open: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._open:
            self.data[self._open] = json.loads(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = None


def hostile_run(path: Path) -> Path:
    """A run in which everything that a server or a player can write is an attack."""
    config = RunConfig(ATTACK, (TASK,), ATTACK, samples=1, turns=2)
    judged = Evaluation(TASK, Verdict.COMPILE_ERROR, warnings=(ATTACK,), feedback=ATTACK, device=ATTACK)
    with RunFolder(path, config) as folder:
        for turn in range(2):
            sha = folder.keep(f"# {turn}\nx = '''{ATTACK}'''\n") if turn else None
            folder.append(
                Rollout(
                    config.key(TASK, 0, turn),
                    TASK,
                    0,
                    turn,
                    ATTACK,
                    llm=ATTACK,
                    candidate_sha=sha,
                    evaluation=judged if turn else None,
                    error=None if turn else ATTACK,
                    reply=ATTACK,
                )
            )
    return path


def page_of(path: Path) -> str:
    write_report(read_run(path), path / "report.html")
    return (path / "report.html").read_text()


def test_page_stands_alone_and_shows_every_turn(scripted: Any, tmp_path: Path, capsys: Any) -> None:
    path = scripted.population().write(tmp_path / "run")
    assert fk_gym(["report", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path / "report.html")
    elements = Elements((path / "report.html").read_text())
    assert not [
        tag for tag, found in elements.tags if {"src", "href"} & found.keys() and found.get("href") != "#attempts"
    ]
    attempts = [data for name, data in elements.data.items() if name.startswith("attempt-")]
    lines = [json.loads(line) for line in (path / "rollouts.jsonl").read_text().splitlines()]
    assert sum(len(attempt["turns"]) for attempt in attempts) == len(lines) == 96
    for line in lines:
        if line["candidate_sha"]:
            text = elements.data[f"kernel-{line['candidate_sha']}"]["text"]
            assert text == (path / "kernels" / f"{line['candidate_sha']}.py").read_text()


def test_text_of_others_stays_text(tmp_path: Path) -> None:
    page = page_of(hostile_run(tmp_path / "run"))
    elements = Elements(page)
    assert [found for tag, found in elements.tags if tag == "script" and found.get("type") != "application/json"] == [
        {}
    ]
    assert not [tag for tag, found in elements.tags if tag == "img" or any(name.startswith("on") for name in found)]
    assert "{{ 7 * 7 }}" in page and "49" not in elements.data["attempt-0"]["turns"][0]["note"]
    assert not re.search("[\u202e\u2028\u2029\x00\x1b]", page)
    seen = elements.data["attempt-0"]["turns"]
    assert seen[0]["note"] == seen[0]["reply"] == shown(ATTACK)
    assert seen[1]["feedback"] == shown(ATTACK)


JSON = st.recursive(
    st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_script_data_is_json_that_holds_no_markup(value: Any) -> None:
    data = script_data(value)
    assert not {"<", ">", "&"} & set(data)
    assert json.loads(str(data)) == value


@given(st.text(st.characters(exclude_categories=())))
def test_shown_text_hides_nothing_and_is_highlighted_whole(text: str) -> None:
    seen = shown(text)
    seen.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", seen)
    assert sum(highlight(seen)[1::2]) == len(seen)


def test_text_made_to_stall_the_lexer_is_shown_plain() -> None:
    assert highlight(" \n" * (32 << 10)) == ["", 64 << 10]


def test_comparison_names_the_changed_lines_and_gives_up_on_a_flood() -> None:
    assert compare("a\nb\nc", "a\nx\nc") == [[("equal", 0, 1, 0, 1), ("replace", 1, 2, 1, 2), ("equal", 2, 3, 2, 3)]]
    assert compare("same", "same") == []
    assert compare("\n" * 1000, "x" + "\n" * 1000) is None
    assert compare("a\n" * 2001, "b") is None


def test_run_with_nothing_to_show_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", RunConfig("scripted", (TASK,))).close()
    with pytest.raises(RunFolderError, match="no turns yet"):
        write_report(read_run(tmp_path / "run"), tmp_path / "report.html")
    (tmp_path / "run" / "config.json").write_text("[]")
    with pytest.raises(RunFolderError, match="damaged"):
        read_run(tmp_path / "run")


def test_run_in_use_and_cut_short_is_reported(scripted: Any, tmp_path: Path) -> None:
    path = scripted.population(samples=1, turns=1).write(tmp_path / "run")
    with (path / "rollouts.jsonl").open("ab") as file:
        file.write(b'{"key": "half a li')
    with RunFolder(path, read_run(path).config, resume=True):
        assert "8 of 8" in page_of(path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Any]:
    """Opens a report; whatever its console says, or its policy refuses, fails the test."""
    said: list[str] = []
    context = browser.new_context(offline=True)

    def open_page(path: Path) -> Any:
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((path / "report.html").as_uri())
        return page

    yield open_page
    context.close()
    assert not said


def column(page: Any, number: int) -> list[str]:
    found: list[str] = page.locator(f"#attempts tbody tr:visible td:nth-child({number})").all_inner_texts()
    return found


@pytest.fixture(scope="module")
def reported(scripted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = scripted.population().write(tmp_path_factory.mktemp("runs") / "run")
    write_report(read_run(path), path / "report.html")
    return path


def test_table_is_sorted_and_filtered(opened: Any, reported: Path) -> None:
    page = opened(reported)
    page.get_by_role("button", name="operator", exact=True).click()
    first = column(page, 4)
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("operator")
    speedups = [float(text.split("x")[0]) for text in first if text != "-"]
    assert speedups == sorted(speedups, reverse=True) and len(first) == 32
    page.get_by_role("button", name="operator", exact=True).click()
    assert column(page, 4)[-1] == first[0]

    page.get_by_label("Find").fill("RMS tiny")
    assert set(column(page, 1)) == {TASK} and page.locator("#shown").inner_text() == "4 of 32"
    page.get_by_label("Find").fill("")
    page.locator("#level").select_option("L4")
    page.locator("#verdict").select_option("ok")
    assert column(page, 1) and all(text.startswith("L4/") for text in column(page, 1))
    assert all(text.startswith("ok") for text in column(page, 3))


def test_kernel_opens_by_keyboard_with_its_changes(opened: Any, reported: Path) -> None:
    page = opened(reported)
    page.get_by_label("Find").fill(TASK)
    page.locator("tbody .open:visible").first.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading", level=2).inner_text() == f"{TASK} · sample 1"
    tabs = dialog.get_by_role("tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    tabs.first.click()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert tabs.nth(2).get_attribute("aria-selected") == "true"
    source = dialog.get_by_label("Source")
    assert "class Kernel(torch.nn.Module):" in source.inner_text()
    assert source.locator(".k", has_text="class").count() == 1
    changes = dialog.get_by_label("Changes").inner_text()
    assert re.search(r"- +return x \* 0", changes) and re.search(r"\+ +return x \* 0", changes)
    assert dialog.get_by_role("button", name="previous").is_disabled()
    dialog.get_by_role("button", name="next").click()
    assert dialog.get_by_role("heading", level=2).inner_text().endswith("sample 2")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.className") == "open"


def test_nothing_is_wider_than_a_phone(browser: Any, reported: Path) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((reported / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("tbody .open").first.click()
    assert page.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.getElementById('detail'))")
    page.close()


def test_light_and_dark_are_switched(opened: Any, reported: Path) -> None:
    page = opened(reported)
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != before


def test_hostile_text_does_nothing_in_a_browser(opened: Any, tmp_path: Path) -> None:
    path = hostile_run(tmp_path / "run")
    page_of(path)
    page = opened(path)
    page.locator("tbody .open").first.click()
    for tab in page.get_by_role("tab").all():
        tab.click()
    assert "</script>" in page.get_by_label("Source").inner_text()
    assert page.evaluate("window.owned") is None
    assert page.locator("img").count() == 0


def test_two_thousand_turns_open(scripted: Any, opened: Any, tmp_path: Path) -> None:
    path = scripted.population(samples=84).write(tmp_path / "run")
    page_of(path)
    page = opened(path)
    assert page.locator("#shown").inner_text() == "672 of 672"
    page.locator("tbody .open").last.click()
    assert page.get_by_label("Source").is_visible()
