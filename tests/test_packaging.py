"""What a wheel holds: every package, every model, every prompt, and nobody's own candidates."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = ("tasks", "prompts", "envs", "baselines")
# By their data patterns: operators and agents ship without every folder of theirs being listed.
WITH_DATA = ("fastkernels_gym.tasks.", "fastkernels_gym.baselines.")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel built from a copy of the checkout, with a candidate of somebody's in it."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("fastkernels_gym", *MAPPED):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    candidate = tree / "tasks/candidate/L1"
    candidate.mkdir(parents=True, exist_ok=True)
    (candidate / "rms_norm.py").write_text("SECRET = 1\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(tree),
    ]
    subprocess.run(command, check=True)
    (path,) = out.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def checkout(pattern: str) -> set[str]:
    """Files of the checkout by the names that they have in a wheel."""
    found = set()
    for folder in ("fastkernels_gym", *MAPPED):
        for path in (ROOT / folder).rglob(pattern):
            name = str(path.relative_to(ROOT))
            found.add(name if folder == "fastkernels_gym" else f"fastkernels_gym/{name}")
    return found


def test_every_package_is_listed() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    packages = {str(Path(name).parent).replace("/", ".") for name in checkout("__init__.py")}
    missing = {name for name in packages - listed if not name.startswith(WITH_DATA)}
    assert not missing
    assert listed <= packages


def test_the_wheel_holds_all_sources_models_and_prompts(wheel: set[str]) -> None:
    wanted = checkout("*.py") | checkout("*.json") | checkout("*.j2") | checkout("py.typed")
    assert not {name for name in wanted - wheel if "/tasks/candidate/" not in name}


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert not [name for name in wheel if not name.startswith(("fastkernels_gym/", "fastkernels_gym-"))]
    assert not [name for name in wheel if "candidate/L" in name]
    assert any(name.endswith("/LICENSE") for name in wheel)


def test_versions_agree() -> None:
    import fastkernels_gym

    assert PROJECT["project"]["version"] == fastkernels_gym.__version__
    assert f"## [{fastkernels_gym.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
