"""torch's compiled header: what the compiler would not take is not kept, and says so in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Stands in for a compiler: it writes what it is asked for, and reads the header itself as if nothing were there.
WILLING = """#!/bin/sh
while [ $# -gt 0 ]; do [ "$1" = -o ] && echo junk > "$2"; shift; done
echo 'warning: any.gch: created by another compiler' >&2
"""
FAILING = "#!/bin/sh\n[ \"$1\" = --version ] || { echo 'fatal: no such header' >&2; exit 1; }\n"


@pytest.mark.parametrize(
    ("script", "said"),
    [(WILLING, "does not take its compiled header: warning: any.gch: created by another"), (FAILING, "do not compile")],
)
def test_a_header_that_no_extension_would_take_is_refused(tmp_path: Path, script: str, said: str) -> None:
    compiler = tmp_path / "bin/c++"
    compiler.parent.mkdir()
    compiler.write_text(script)
    compiler.chmod(0o755)
    environment = {**os.environ, "PATH": f"{compiler.parent}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "fastkernels_gym.player.headers"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and said in done.stderr
    assert not list(tmp_path.rglob("*.gch"))
