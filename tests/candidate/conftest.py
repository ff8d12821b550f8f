import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Fresh = Callable[[str, Path, Any], str]


@pytest.fixture(scope="session")
def fresh() -> Iterator[Fresh]:
    """Runs a program in a fresh interpreter and returns what it prints; whatever it raises fails the test."""
    script = str(Path(__file__).with_name("fresh.py"))
    server = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None and server.stdout is not None
    requests, answers = server.stdin, server.stdout

    def run(program: str, folder: Path, arguments: Any = None) -> str:
        print(json.dumps([program, str(folder), arguments]), file=requests, flush=True)
        status, output = json.loads(answers.readline())
        assert status == 0, output
        return str(output)

    yield run
    requests.close()
    answers.close()
    server.wait()
