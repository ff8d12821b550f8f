"""What an agent is told when its kernel does not compile: the compiler's own first errors."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastkernels_gym as fk
from fastkernels_gym.player.faults import describe, fault_kind, first_errors
from fastkernels_gym.player.protocol import MAX_DETAIL
from fastkernels_gym.results import Verdict

NINJA = """[1/3] /usr/local/cuda/bin/nvcc -Xcompiler -Werror -c /tmp/torch_extensions/k/cuda.cu -o cuda.cuda.o
FAILED: cuda.cuda.o
/usr/local/cuda/bin/nvcc -Xcompiler -Werror -c /tmp/torch_extensions/k/cuda.cu -o cuda.cuda.o
/tmp/torch_extensions/k/cuda.cu(7): warning #177-D: variable "unused" was declared but never referenced
/tmp/torch_extensions/k/cuda.cu(9): error: identifier "blockIdxx" is undefined
      int row = blockIdxx.x;
                ^

/tmp/torch_extensions/k/cuda.cu(12): error: expected a ";"
      }
      ^

2 errors detected in the compilation of "/tmp/torch_extensions/k/cuda.cu".
ninja: build stopped: subcommand failed.
"""
INLINE = """
import torch
from torch import nn
from torch.utils.cpp_extension import load_inline

module = load_inline("k", "int twice(int x) { return y * 2; }", functions=["twice"], no_implicit_headers=True)

class SiluAndMul(nn.Module):
    def forward(self, x):
        return x
"""


def test_the_first_errors_are_kept_and_commands_are_not() -> None:
    assert first_errors(NINJA).splitlines() == [
        'cuda.cu(9): error: identifier "blockIdxx" is undefined',
        "      int row = blockIdxx.x;",
        "                ^",
        'cuda.cu(12): error: expected a ";"',
        "      }",
        "      ^",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "main.cpp:3:5: error: 'y' was not declared in this scope",
        "main.cpp:1:10: fatal error: nothing.h: No such file or directory",
        "ptxas k.ptx, line 10; error   : Arguments mismatch for instruction 'mov'",
        "ptxas fatal   : Unresolved extern function 'f'",
        "main.cpp:(.text+0x5): undefined reference to `launch(int)'",
        "k.cu(3): error #20: identifier is undefined",
    ],
)
def test_each_compiler_is_understood(line: str) -> None:
    assert first_errors(f"some command\n{line}\nsome more") == line


def test_many_errors_are_counted() -> None:
    output = "\n".join(f"a.cu({n}): error: no" for n in range(40))
    assert first_errors(output).splitlines()[-1] == "[and 35 more errors]"


@given(st.text())
def test_any_output_gives_some_text(output: str) -> None:
    assert first_errors(output) or not output
    error = RuntimeError(f"Error building extension 'k': {output}")
    assert fault_kind(error, "load") == "compile_error"
    assert len(describe(error)) < 2 * MAX_DETAIL


@pytest.mark.skipif(shutil.which("ninja") is None, reason="load_inline needs ninja")
def test_load_inline_in_the_sandbox_fails_with_the_compilers_words(evaluator: fk.Evaluator) -> None:
    result = evaluator.evaluate("L1/silu_and_mul@tiny-llama", INLINE, measure="op", budget_s=0.3)
    assert result.verdict is Verdict.COMPILE_ERROR, result.feedback
    assert "main.cpp:" in result.feedback and "declared in this scope" in result.feedback
    assert "ninja" not in result.feedback
