"""What the site is made of besides its pages: the package as it will be installed, and the command line's reference."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

_MAPPED = ("tasks", "prompts", "envs", "baselines")


@event_priority(100)  # before mkdocstrings looks for it
def on_config(config: MkDocsConfig) -> None:
    """Lays the sources out as the wheel does: docstrings are read from there, without importing anything."""
    root = Path(config.config_file_path).parent
    package = root / ".cache" / "docs" / "fastkernels_gym"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(root / "fastkernels_gym", package)
    for name in _MAPPED:
        shutil.copytree(root / name, package / name)


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Adds the page that Typer writes of the commands."""
    command = [sys.executable, "-m", "typer", "fastkernels_gym.cli.app", "utils", "docs", "--name", "fk-gym"]
    done = subprocess.run([*command, "--title", "Command line"], capture_output=True, text=True, check=True)
    # Typer takes help texts for Markdown, where outside of code a <placeholder> is HTML and a [part] is a link.
    page = re.sub(r"(`[^`]*`)|[<\[]", lambda found: found[1] or f"&#{ord(found[0])};", done.stdout)
    files.append(File.generated(config, "reference/cli.md", content=page))
