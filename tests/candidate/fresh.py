"""Interpreters that have imported torch and no operator, a few milliseconds each: run as a script, it forks one a job.

A job is a line of JSON `[program, folder, arguments]`: the program is executed in the folder with `arguments` bound.
The answer is a line of JSON `[status, output]`.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any


def execute(program: str, folder: str, arguments: Any) -> tuple[int, str]:
    os.chdir(folder)
    sys.path.insert(0, folder)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            exec(compile(program, "<program>", "exec"), {"__name__": "__main__", "arguments": arguments})
        except BaseException:
            traceback.print_exc()
            return 1, output.getvalue()
    return 0, output.getvalue()


def serve() -> None:
    # What takes seconds to import.
    import torch
    import triton  # noqa: F401
    from transformers import AutoConfig

    for model_type in ("llama", "qwen3"):
        AutoConfig.for_model(model_type)
    torch.set_num_threads(1)
    for line in sys.stdin:
        reader, writer = os.pipe()
        if os.fork() == 0:
            answer = json.dumps(execute(*json.loads(line))).encode()
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer)
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            print(pipe.read(), flush=True)
        os.wait()


if __name__ == "__main__":
    serve()
