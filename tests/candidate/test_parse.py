"""Candidates are read from replies and files, and never run."""

import threading
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.candidate import MAX_BYTES, Candidate, parse_reply
from fastkernels_gym.errors import CandidateFault
from fastkernels_gym.results import Verdict
from fastkernels_gym.scan import MAX_FINDINGS

MODULE = "import torch\n\n\nclass RMSNorm(torch.nn.Module):\n    pass\n"
OTHER = "class Other:\n    pass\n"
FENCES = (
    "```",
    "````",
    "~~~",
    "```python",
    "~~~~py",
    "``` Python3",
    "   ```",
    "```diff",
    "```python title=a.py",
    "```x`",
)


def fenced(source: str, fence: str = "```python") -> str:
    return f"{fence}\n{source}{fence[: 1 + fence.rindex(fence.lstrip()[0])]}\n"


def fault(source: str | bytes) -> CandidateFault:
    with pytest.raises(CandidateFault) as caught:
        Candidate.parse(source)
    return caught.value


@pytest.mark.parametrize("fence", ["```python", "```py", "```Python3", "```", "````python", "~~~", "~~~~~py"])
def test_a_fence_holds_the_candidate(fence: str) -> None:
    assert parse_reply(f"Here it is:\n\n{fenced(MODULE, fence)}\nIt is fast.") == MODULE


def test_the_last_fence_that_is_a_module_counts() -> None:
    reply = "".join(map(fenced, (OTHER, MODULE, "norm = RMSNorm(4096)\n", "class Broken(:\n")))
    assert parse_reply(reply) == MODULE


def test_a_module_is_its_own_reply_even_with_fences_in_its_docstring() -> None:
    source = f'"""Use it so:\n\n{fenced(OTHER)}"""\n{MODULE}'
    assert parse_reply(MODULE) == MODULE
    assert parse_reply(source) == source
    assert parse_reply(f"````\n{source}````") == source


def test_fences_of_a_list_lose_its_indentation() -> None:
    indented = "".join(f"  {line}" if line.strip() else line for line in fenced(MODULE).splitlines(keepends=True))
    assert parse_reply(f"1. Fused:\n{indented}") == MODULE


def test_line_endings_do_not_matter() -> None:
    found = parse_reply(f"Done.\n{fenced(MODULE)}".replace("\n", "\r\n"))
    assert found is not None and found.replace("\r\n", "\n") == MODULE


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I would write a class RMSNorm that fuses both passes.",
        "x = 1\n",
        f"```python\n{MODULE}",
        f"```python\n{MODULE}``",
        f"````python\n{MODULE}```\n",
        f"~~~python\n{MODULE}```\n",
        fenced(MODULE, "```cpp"),
        fenced("def rms_norm(x):\n    return x\n"),
        fenced("class is fast\n", "```"),
        fenced(
            "--- a/rms_norm.py\n+++ b/rms_norm.py\n@@ -1 +1 @@\n-class RMSNorm(A):\n+class RMSNorm(B):\n     pass\n"
        ),
        f"`class A: pass` and ```class B: pass```\n{'word ' * MAX_BYTES}",
    ],
)
def test_what_holds_no_module_holds_no_candidate(reply: str) -> None:
    assert parse_reply(reply) is None


def test_a_cut_off_fence_leaves_the_one_before() -> None:
    assert parse_reply(f"{fenced(MODULE)}\nBetter:\n```python\n{OTHER}") == MODULE


@pytest.mark.parametrize("broken", ["class RMSNorm(:\n    pass\n", "class RMSNorm:\nx = (\n"])
def test_marked_python_that_does_not_parse_is_judged_so(broken: str) -> None:
    assert parse_reply(fenced(broken)) == broken
    assert parse_reply(fenced(broken, "```")) is None
    assert fault(broken).verdict is Verdict.LOAD_ERROR


@pytest.mark.parametrize("wrong", [MODULE + "#" * MAX_BYTES + "\n", MODULE + "x = '\0'\n", MODULE + "x = '\ud800'\n"])
def test_what_the_policy_rejects_is_still_submitted(wrong: str) -> None:
    assert parse_reply(wrong) == wrong
    assert parse_reply(fenced(wrong)) == wrong
    assert fault(wrong).verdict is Verdict.POLICY_REJECT


@given(
    st.lists(st.sampled_from((*FENCES, MODULE.rstrip(), OTHER.rstrip(), "class", "'''", "\t", "\0", "\r")) | st.text())
)
def test_no_reply_raises(lines: list[str]) -> None:
    text = "\n".join(lines)
    found = parse_reply(text)
    assert found is None or "class" in found


@given(st.text() | st.binary())
def test_no_source_raises_anything_but_a_fault(source: str | bytes) -> None:
    try:
        candidate = Candidate.parse(source)
    except CandidateFault as error:
        assert error.verdict in (Verdict.POLICY_REJECT, Verdict.LOAD_ERROR)
        assert error.detail.isprintable()
    else:
        assert candidate == Candidate.parse(candidate.text)


@pytest.mark.parametrize(
    "unit",
    [
        "`",
        "```\n",
        "   ```",
        "~~~`",
        "`````\n",
        " ",
        "\n",
        "class ",
        "class A:\n",
        fenced(OTHER),
        "```python\nclass\n```\n",
    ],
)
def test_hostile_replies_take_linear_time(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        begin = time.process_time()
        parse_reply(text)
        return time.process_time() - begin

    assert seconds(400_000) < 20 * seconds(50_000) + 0.2


@pytest.mark.parametrize(
    "source",
    [
        "import " + "a." * 30_000 + "a",
        "import " + "a . \\\n" * 9_000 + "a",
        "x = a" + ".a" * 30_000,
        "x = " + "-" * 60_000 + "1",
        "x = 1" + "+1" * 30_000,
        "x = " + "(" * 30_000,
        "x = " + "[" * 150 + "1 for" + "]" * 150,
        "x = " + "lambda: " * 8_000 + "1",
        "x = f" + "()" * 30_000,
        "x = " + "9" * 60_000,
        "".join(" " * depth + "if x:\n" for depth in range(200)),
    ],
)
def test_hostile_sources_cost_nothing(source: str) -> None:
    begin = time.process_time()
    found = fault(source)
    assert found.verdict is Verdict.LOAD_ERROR
    assert time.process_time() - begin < 1
    assert len(found.detail) < 300


def test_parsing_runs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Candidate.parse("print('ran')\nimport no_such_module\nraise SystemExit\nclass A: print('ran')\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("#" * (MAX_BYTES + 1), "bytes"),
        ("é" * (MAX_BYTES // 2 + 1), "bytes"),
        ("#" * 10_000_000, "bytes"),
        (b"\xff", "UTF-8"),
        ("\ud800", "UTF-8"),
        ("\0", "null"),
        (b"\0", "null"),
    ],
)
def test_policy(source: str | bytes, reason: str) -> None:
    found = fault(source)
    assert found.verdict is Verdict.POLICY_REJECT
    assert reason in found.detail


def test_the_largest_source_is_accepted() -> None:
    assert Candidate.parse("#" * MAX_BYTES).classes == ()


def test_syntax_errors_name_their_line() -> None:
    assert fault("x = 1\nclass A(:\n").detail == "SyntaxError: invalid syntax (line 2)"
    assert fault("if x:\nx\n").detail.startswith("IndentationError: ")
    assert fault("x = \x1b[31m").detail.isprintable()


def test_bytes_and_text_are_the_same_candidate() -> None:
    candidate = Candidate.parse(MODULE)
    assert candidate == Candidate.parse(MODULE.encode()) == Candidate.parse(b"\xef\xbb\xbf" + MODULE.encode())
    assert len(candidate.sha256) == 64
    assert candidate.text == MODULE
    assert candidate.classes == ("RMSNorm",)


def test_source_that_warns_parses_where_warnings_are_errors_and_in_threads() -> None:
    filters = list(warnings.filters)
    threads = [threading.Thread(target=Candidate.parse, args=("x = '\\d'\nassert (x, 1)\n",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == filters


def test_classes_are_those_that_the_module_binds() -> None:
    source = """
if True:
    class A: pass
else:
    class A: pass
try:
    import triton
    class B: pass
except ImportError:
    class B: pass
def f():
    class C: pass
class D:
    class E: pass
class D: pass
"""
    assert Candidate.parse(source).classes == ("A", "B", "D", "D")


def test_what_is_replaced() -> None:
    source = "class Helper: pass\nclass RowParallelLinear: pass\nclass QKVParallelLinear: pass\n"
    candidate = Candidate.parse(source)
    siblings = ["ReplicatedLinear", "RowParallelLinear"]
    assert candidate.replaces("QKVParallelLinear", siblings) == ("QKVParallelLinear", "RowParallelLinear")
    with pytest.raises(CandidateFault) as missing:
        candidate.replaces("QkvParallelLinear", siblings)
    assert missing.value.verdict is Verdict.INTERFACE_MISMATCH
    assert "did you mean it by QKVParallelLinear" in missing.value.detail


@pytest.mark.parametrize("target", ["A", "B"])
def test_a_class_defined_twice(target: str) -> None:
    candidate = Candidate.parse("class A: pass\nclass B: pass\nclass A: pass\n")
    with pytest.raises(CandidateFault, match="class 'A' is defined twice") as twice:
        candidate.replaces(target, ["A", "B"])
    assert twice.value.verdict is Verdict.LOAD_ERROR


def test_homoglyphs_are_another_name() -> None:
    cyrillic = MODULE.replace("RMSNorm", "RMSN\u043erm")
    with pytest.raises(CandidateFault) as missing:
        Candidate.parse(cyrillic).replaces("RMSNorm", [])
    assert missing.value.verdict is Verdict.INTERFACE_MISMATCH
    assert missing.value.detail.isascii()


@pytest.mark.parametrize(
    ("source", "warning"),
    [
        ("import pandas", "imports pandas, which players do not have"),
        ("import ctypes.util", "imports ctypes"),
        ("from threading import Thread", "imports threading"),
        ("import os\nos.fork()", "uses os.fork"),
        ("from os import fork as f", "uses os.fork"),
        ("import sys as s\ns.modules['torch'] = 1", "uses sys.modules"),
        ("from torch import cuda as c\nc.Event.record = 1", "assigns to torch.cuda.Event.record"),
        ("import torch as t\nt.cuda.Event(enable_timing=True)", "uses torch.cuda.Event"),
        (
            "import torch\ntorch.backends.cuda.matmul.allow_tf32 = True",
            "assigns to torch.backends.cuda.matmul.allow_tf32",
        ),
        ("import torch\ntorch.set_float32_matmul_precision('high')", "uses torch.set_float32_matmul_precision"),
        ("import time\ntime.perf_counter = lambda: 0.0", "assigns to time.perf_counter"),
        ("exec('x')", "uses exec"),
        ("e = eval", "uses eval"),
        ("class A:\n    def __del__(self): pass", "defines __del__"),
        ("f.__code__ = g", "uses __code__"),
        ("g(f.__globals__)", "uses __globals__"),
    ],
)
def test_warnings(source: str, warning: str) -> None:
    assert warning in Candidate.parse(source).warnings


def test_honest_source_gives_no_warning() -> None:
    source = """
from __future__ import annotations
import math
import numpy as np, torch, triton
import triton.language as tl
from flash_attn import flash_attn_func
from torch.utils.cpp_extension import load_inline
from fastkernels_gym.tasks.baseline.L1.linear import Linear
from ..operator import Operator

@triton.jit
def kernel(x, BLOCK: tl.constexpr):
    tl.store(x, tl.load(x) + 1)

class RMSNorm(torch.nn.Module):
    def __init__(self, size):
        super().__init__()
        self.forward = torch.compile(self.forward)
        self.graph = torch.cuda.CUDAGraph()
"""
    assert Candidate.parse(source).warnings == ()


def test_warnings_are_bounded() -> None:
    source = "\n".join(f"import m{index}{name * 500}" for index, name in enumerate("abcdefghij" * 10))
    found = Candidate.parse(source[:MAX_BYTES].rpartition("\n")[0]).warnings
    assert len(found) == MAX_FINDINGS
    assert all(len(text) < 100 for text in found)
