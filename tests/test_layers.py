"""Dependencies point one way, and what must start fast imports nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = ("tasks", "prompts", "envs", "baselines")
# What each part may import of the others: tasks, prompts <- core <- envs <- baselines <- cli.
ALLOWED = {
    "tasks": {"tasks"},
    "prompts": {"prompts"},
    "core": {"tasks", "prompts", "core"},
    "envs": {"tasks", "prompts", "core", "envs"},
    "baselines": {"tasks", "prompts", "core", "envs", "baselines"},
    "cli": {"tasks", "prompts", "core", "envs", "baselines", "cli"},
}


def sources(folder: str) -> list[Path]:
    """A folder's modules; what attackers send is data."""
    return sorted(path for path in (ROOT / folder).rglob("*.py") if path.parent.name != "attacks")


def dotted(path: Path) -> str:
    """The name under which a file of the checkout is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "fastkernels_gym" else ("fastkernels_gym", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part(module: str) -> str | None:
    """The part of the project that a module belongs to; None for everybody else's."""
    root, _, rest = module.partition(".")
    if root != "fastkernels_gym":
        return None
    first = rest.partition(".")[0]
    return first if first in (*MAPPED, "cli") else "core"


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """A tree's nodes but those under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield child
            yield from executed(child)


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports when it runs, relative ones resolved; `from a import b` gives `a.b`."""
    package = dotted(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in executed(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", ("fastkernels_gym", *MAPPED))
def test_imports_follow_the_order_of_the_parts(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        for name in imported(path)
        if part(name) is not None and part(name) not in ALLOWED[part(dotted(path)) or ""]
    ]
    assert not wrong


@pytest.mark.parametrize("folder", ("fastkernels_gym", *MAPPED, "tests", "examples", "benchmarks"))
def test_mapped_folders_are_never_import_roots(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        for name in imported(path)
        if name.partition(".")[0] in MAPPED
    ]
    assert not wrong


def test_players_do_not_import_the_referee() -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in sources("fastkernels_gym/player")
        for name in imported(path)
        if name.startswith(("fastkernels_gym.referee", "fastkernels_gym.executor", "fastkernels_gym.evals"))
    ]
    assert not wrong


def test_evals_are_handed_their_agents() -> None:
    names = [name for path in sources("fastkernels_gym/evals") for name in imported(path)]
    assert not [name for name in names if name.startswith("fastkernels_gym.baselines")]


def baseline_imports() -> dict[str, set[str]]:
    """The operator files that each operator file imports, as `L2/attention`."""
    files = {
        dotted(path): f"{path.parent.name}/{path.stem}"
        for level in (1, 2, 3, 4)
        for path in sources(f"tasks/baseline/L{level}")
        if path.name != "__init__.py"
    }
    graph: dict[str, set[str]] = {}
    for path in sources("tasks/baseline"):
        if dotted(path) in files:
            names = [part for name in imported(path) for part in (name, name.rpartition(".")[0])]
            graph[files[dotted(path)]] = {files[name] for name in names if name in files}
    return graph


def test_levels_import_no_higher_level() -> None:
    graph = baseline_imports()
    assert graph, "no operators found"
    assert not [(user, used) for user, parts in graph.items() for used in parts if used[:2] > user[:2]]


def test_operator_files_import_each_other_without_cycles() -> None:
    graph = baseline_imports()
    while graph:
        leaves = {name for name, parts in graph.items() if not parts & graph.keys()}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {name: parts for name, parts in graph.items() if name not in leaves}


@pytest.mark.parametrize("statement", ("import fastkernels_gym", "import fastkernels_gym.cli"))
def test_starting_imports_nothing_heavy(statement: str) -> None:
    heavy = {"torch", "triton", "transformers", "gymnasium", "openai", "numpy"}
    program = f"import sys; {statement}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
