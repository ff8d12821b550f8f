"""The import overlay, on a small package of operators. Each program runs in an interpreter of its own."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

NORM = """
from __future__ import annotations
import torch
from ..operator import Operator, REGISTRY, register

SCALE = 2

def helper(x: int) -> int:
    return x + SCALE

def build() -> Norm:
    return Norm()

@register
class Norm(Operator):
    kind = "baseline"

class Scale(Operator):
    kind = "baseline"

class WideNorm(Norm):
    pass

BY_NAME = {"norm": Norm, "scale": Scale}
__all__ = ["Norm", "Scale", "WideNorm"]
"""
FILES = {
    "__init__.py": "",
    "operator.py": """
        from torch import nn
        REGISTRY = []
        class Operator(nn.Module):
            pass
        def register(cls):
            REGISTRY.append(cls)
            return cls
    """,
    "L1/__init__.py": "",
    "L1/norm.py": NORM,
    "L1/other.py": "from ..operator import Operator\nclass Other(Operator): pass\n",
    "L2/__init__.py": "",
    "L2/block.py": """
        from ..L1 import norm
        from ..L1.norm import Norm, Scale, WideNorm, build
        from ..operator import Operator
        class Block(Operator):
            def __init__(self):
                super().__init__()
                self.parts = [Norm(), WideNorm(), build(), norm.Norm(), Scale()]
    """,
    "L2/scaled.py": "from ..L1.norm import Scale\nclass Scaled(Scale): pass\n",
    "L2/upper.py": "from .scaled import Scaled\n",
}
PREAMBLE = """
import sys
from pathlib import Path
from fastkernels_gym.player.overlay import CANDIDATE_NAME, CandidateImportError, install
CANDIDATE = Path("candidate.py")
overlay = install("kit.L1.norm", {classes!r}, CANDIDATE)
"""
CANDIDATE = """
from torch import nn
class Norm(nn.Module):
    kind = "candidate"
"""
Run = Callable[..., str]


@pytest.fixture
def run(fresh: Callable[..., str], tmp_path: Path) -> Run:
    """Runs a program with an overlay installed and returns what it prints; its assertions must hold."""
    for name, text in FILES.items():
        path = tmp_path / "kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))

    def execute(candidate: str, program: str, classes: tuple[str, ...] = ("Norm",)) -> str:
        (tmp_path / "candidate.py").write_text(textwrap.dedent(candidate))
        return fresh(PREAMBLE.format(classes=classes) + textwrap.dedent(program), tmp_path)

    return execute


def test_every_user_gets_the_candidate(run: Run) -> None:
    run(
        CANDIDATE,
        """
        from kit.L2.block import Block
        import kit.L1.norm
        from kit.L1 import norm
        from kit.L1.norm import BY_NAME, Norm, Scale, WideNorm, build, helper
        assert [part.kind for part in Block().parts] == ["candidate"] * 4 + ["baseline"]
        assert kit.L1.norm is norm is sys.modules["kit.L1.norm"]
        assert BY_NAME == {"norm": Norm, "scale": Scale}
        assert WideNorm.__mro__[1] is Norm is type(build()) is norm.Norm
        assert Norm.__module__ == f"kit.L1.{CANDIDATE_NAME}" and sys.modules[Norm.__module__].Norm is Norm
        assert overlay.replaced() == (Norm,)
        assert helper(1) == 3 and norm.__all__ == ["Norm", "Scale", "WideNorm"]
        """,
    )


def test_several_siblings_are_replaced(run: Run) -> None:
    run(
        CANDIDATE + "class Scale(nn.Module):\n    kind = 'candidate'\n",
        """
        assert overlay.replaced() == ()
        from kit.L2.block import Block
        assert {part.kind for part in Block().parts} == {"candidate"}
        assert [cls.__name__ for cls in overlay.replaced()] == ["Norm", "Scale"]
        """,
        ("Norm", "Scale"),
    )


def test_the_candidate_imports_all_but_itself(run: Run) -> None:
    run(
        """
        import kit.L1.norm
        from . import norm as module
        from .norm import *
        from .norm import SCALE, Scale, WideNorm, build, helper
        from .other import Other
        from ..operator import Operator
        from kit.L1.norm import helper as absolute
        assert absolute is helper is module.helper is kit.L1.norm.helper
        assert "Norm" not in globals() and "Norm" not in dir(module)
        class Norm(Operator):
            kind = "candidate"
            def __init__(self):
                super().__init__()
                self.scale, self.other = Scale(), Other()
        """,
        """
        from kit.L1.norm import Norm, build
        from kit.L1.other import Other
        assert isinstance(Norm().other, Other) and Norm().scale.kind == "baseline"
        seen = sys.modules[Norm.__module__]
        assert type(seen.build()) is Norm is seen.module.Norm
        """,
    )


@pytest.mark.parametrize(
    "statement",
    [
        "from .norm import Norm",
        "from kit.L1.norm import Norm as Base",
        "from . import norm; norm.Norm",
        "import kit.L1.norm; kit.L1.norm.Norm",
        "import importlib; importlib.import_module('kit.L1.norm').Norm",
        "from ..L2.block import Block",
    ],
)
def test_the_replaced_class_is_barred(run: Run, statement: str) -> None:
    said = run(
        f"{statement}\n{CANDIDATE}",
        """
        try:
            import kit.L1.norm
        except CandidateImportError as error:
            print(error.original)
            assert type(error.original) is ImportError and error.__cause__ is error.original
        """,
    )
    assert said == "Norm is the operator being replaced; define it, do not import it\n"


@pytest.mark.parametrize("name", ["scaled", "upper"])
def test_users_of_the_module_are_no_part_of_it(run: Run, name: str) -> None:
    said = run(
        f"from ..L2 import {name}\n{CANDIDATE}",
        """
        try:
            import kit.L1.norm
        except CandidateImportError as error:
            print(error.original)
        """,
    )
    assert said == "kit.L2.scaled is built on the operator being replaced; it cannot be a part of it\n"


@pytest.mark.parametrize(
    ("candidate", "error"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import sys\nsys.exit()", "SystemExit: "),
        ("raise KeyboardInterrupt", "KeyboardInterrupt: "),
        ("class Norm(:", "SyntaxError: invalid syntax (candidate.py, line 1)"),
        ("x = 1", "TypeError: the module leaves no class 'Norm' behind"),
        ("class Norm: pass", "TypeError: Norm is not a class derived from torch.nn.Module"),
        ("def Norm(): pass", "TypeError: Norm is not a class derived from torch.nn.Module"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("from .norm import no_such", "ImportError: cannot import name 'no_such' from 'kit.L1.norm'"),
        (
            "import sys\ndel sys.modules[__name__], sys.modules['kit.L1.norm']\n1 / 0",
            "ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_failed_import_fails_each_time(run: Run, candidate: str, error: str) -> None:
    said = run(
        candidate,
        """
        for statement in ("import kit.L1.norm", "from kit.L2.block import Block", "from kit.L1 import norm"):
            try:
                exec(statement)
            except CandidateImportError as error:
                print(f"{type(error.original).__name__}: {error.original}")
            assert "kit.L1.norm" not in sys.modules and f"kit.L1.{CANDIDATE_NAME}" not in sys.modules
        """,
    )
    lines = said.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(error) for line in lines)


def test_a_message_that_cannot_be_read_changes_nothing(run: Run) -> None:
    run(
        "class E(BaseException):\n    def __str__(self): raise SystemExit\nraise E",
        """
        try:
            import kit.L1.norm
        except CandidateImportError as error:
            assert type(error.original).__name__ == "E" and str(error)
        """,
    )


def test_sources_can_be_read(run: Run) -> None:
    run(
        CANDIDATE + "    def forward(self, x: 'int') -> int:\n        return x  # mine\n",
        """
        import inspect
        from kit.L1.norm import Norm, Scale, helper
        assert "# mine" in inspect.getsource(Norm.forward) and "# mine" in inspect.getsource(Norm)
        assert inspect.getsource(helper).startswith("def helper")
        assert inspect.getsource(Scale).startswith("class Scale")
        assert Path(inspect.getfile(Norm)).name == "candidate.py"
        # Annotations are the file's own: `from __future__ import annotations` holds where it is written.
        assert Norm.forward.__annotations__["return"] is int and helper.__annotations__["return"] == "int"
        assert not list(Path().rglob("*candidate*.pyc"))
        """,
    )


def test_it_imports_little() -> None:
    program = "import sys, fastkernels_gym.player.overlay; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "False\n"


def test_it_must_come_first(run: Run) -> None:
    run(
        CANDIDATE,
        """
        import kit.L1.norm
        try:
            install("kit.L1.norm", ["Norm"], CANDIDATE)
        except RuntimeError as error:
            assert "imported already" in str(error)
        else:
            raise AssertionError
        """,
    )
