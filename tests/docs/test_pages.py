"""The pages keep their word: every block runs as pasted, the site builds, nothing in it is fetched from elsewhere.

Of a page's blocks, in order: a file (a `title`) is saved, `bash` is run, and `python` is run as one program at the end.
`text` is what they printed: its first line must have been among it. `console` shows a session that is not repeated: on
a GPU, over the network, or of what another test holds (the tutorial's wrong kernel is judged in tests/test_cli.py).
"""

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chat_server import ChatServer, plain
from markdown_it import MarkdownIt

from fastkernels_gym.results import Verdict

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SERVER = "http://localhost:8000/v1"
KERNEL = """
import torch

class SiluAndMul(torch.nn.Module):
    def __init__(self, *, compile_native=True):
        super().__init__()

    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return gate * torch.sigmoid(gate) * up
"""


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    fences = [token for token in MarkdownIt().parse(page.read_text()) if token.type == "fence"]
    titles = [re.search(r'title="([^"]+)"', token.info) for token in fences]
    return [
        Block(token.info.split(" ")[0], title[1] if title else "", token.content)
        for token, title in zip(fences, titles, strict=True)
    ]


PAGES = {str(page.relative_to(DOCS)): blocks(page) for page in sorted(DOCS.rglob("*.md"))}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an LLM that has only one thing to say, for the one that the pages name."""
    with ChatServer(lambda request: plain(f"```python{KERNEL}```", request["model"])) as running:
        yield running.url


def run(command: list[str], folder: Path) -> str:
    """What a command prints on standard output; a failure shows all that it said."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "COLUMNS": "160"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", [page for page, found in PAGES.items() if found])
def test_blocks_run_as_pasted(page: str, server: str, tmp_path: Path) -> None:
    printed, program = "", ""
    for block in PAGES[page]:
        text = block.text.replace(SERVER, server)
        if block.title:
            path = tmp_path / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif block.language == "bash":
            printed += run(["bash", "-euo", "pipefail", "-c", text], tmp_path)
        elif block.language == "python":
            program += text
        else:
            assert block.language in ("text", "console"), f"{block.language}: who runs it?"
    if program:
        printed += run([sys.executable, "-c", program], tmp_path)
    promised = [block.text.splitlines()[0] for block in PAGES[page] if block.language == "text"]
    assert not [line for line in promised if line not in printed], printed


def test_the_pages_that_show_how_have_blocks() -> None:
    shown = {page for page, found in PAGES.items() if any(b.language in ("bash", "python") for b in found)}
    assert shown >= {page for page in PAGES if page.startswith("how-to/")} | {"tutorial.md"}


def test_every_verdict_is_explained() -> None:
    text = (DOCS / "reference/results.md").read_text()
    said = {True: "yes", False: "no", None: "unknown"}
    assert not [v for v in Verdict if not re.search(rf"^\| `{v}` \| .+ \| {said[v.correct]} \|$", text, re.MULTILINE)]


def test_the_site_builds_without_a_warning_and_stands_alone(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra [docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    run([*command, "--config-file", str(ROOT / "mkdocs.yml")], ROOT)
    built = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.html")}
    assert built >= {page.removesuffix(".md") + ".html" for page in PAGES}
    commands = html.unescape((tmp_path / "reference/cli.html").read_text())
    assert all(f'id="fk-gym-{name}"' in commands for name in ("list", "show", "graph", "check", "eval", "doctor"))
    assert "<operator>@<model>" in commands and "--suite" in commands
    assert (
        'id="fastkernels_gym.executor.evaluator.Evaluator.submit"' in (tmp_path / "reference/python.html").read_text()
    )
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', (tmp_path / "index.html").read_text())
    assert loaded and not [address for address in loaded if address.startswith(("http", "//"))]
