"""A cheap look at a candidate's source for what honest kernels seldom do. Advice for readers, never the defence."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

MAX_FINDINGS = 20
_SHOWN = 80

_ALLOWED = ("torch", "triton", "numpy", "flash_attn", "fastkernels_gym")
_SUSPECT_MODULES = (
    "_ctypes", "_thread", "asyncio", "atexit", "builtins", "concurrent", "ctypes", "faulthandler", "gc", "importlib",
    "inspect", "marshal", "mmap", "multiprocessing", "pickle", "ptrace", "resource", "runpy", "shutil", "signal",
    "socket", "subprocess", "threading", "urllib",
)  # fmt: skip
_SUSPECT_NAMES = (
    "__builtins__", "__import__", "compile", "delattr", "eval", "exec", "globals", "open", "setattr", "vars",
)  # fmt: skip
# Dotted names, with all that lies below them.
_SUSPECT_ATTRIBUTES = (
    "fastkernels_gym.player", "fastkernels_gym.referee",
    "os._exit", "os.abort", "os.environ", "os.execv", "os.fork", "os.kill", "os.memfd_create", "os.popen",
    "os.posix_spawn", "os.putenv", "os.spawnv", "os.system", "os.write",
    "sys._current_frames", "sys._getframe", "sys.exit", "sys.meta_path", "sys.modules", "sys.path", "sys.setprofile",
    "sys.settrace",
    "torch.cuda.Event", "torch.cuda.Stream", "torch.cuda.stream", "torch.cuda.synchronize",
    "torch.multiprocessing", "torch.set_default_device", "torch.set_default_dtype",
    "torch.set_float32_matmul_precision", "torch.set_num_threads", "torch.set_printoptions",
    "torch.use_deterministic_algorithms",
)  # fmt: skip
_SUSPECT_MEMBERS = ("__code__", "__del__", "__globals__", "__subclasses__", "f_back", "f_globals", "f_locals")
# Assigning to an attribute of these patches what others run.
_PATCHABLE = ("builtins", "fastkernels_gym", "numpy", "os", "sys", "time", "torch", "triton")


def scan(tree: ast.Module) -> tuple[str, ...]:
    """What is worth a look in a module, sorted, each once, at most `MAX_FINDINGS`."""
    aliases = _aliases(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        found.update(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..." for text in _look(node, aliases))
    return tuple(sorted(found)[:MAX_FINDINGS])


def _look(node: ast.AST, aliases: dict[str, str]) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield from _import(alias.name)
        case ast.ImportFrom(module=str(module), level=0, names=names):
            yield from _import(module)
            for alias in names:
                yield from _use(f"{module}.{alias.name}")
        case ast.FunctionDef(name=name) if name in _SUSPECT_MEMBERS:
            yield f"defines {name}"
        case ast.Attribute(attr=attr, ctx=context):
            dotted = _dotted(node, aliases)
            yield from _use(dotted)
            if attr in _SUSPECT_MEMBERS:
                yield f"uses {attr}"
            if not isinstance(context, ast.Load) and dotted.partition(".")[0] in _PATCHABLE:
                yield f"assigns to {dotted}"
        case ast.Subscript(value=value, ctx=ast.Store() | ast.Del()):
            yield from (f"writes {finding}" for finding in _use(_dotted(value, aliases)))
        case ast.Name(id=name, ctx=ast.Load()) if name in _SUSPECT_NAMES:
            yield f"uses {name}"


def _import(module: str) -> Iterator[str]:
    root = module.partition(".")[0]
    if root in _SUSPECT_MODULES:
        yield f"imports {root}"
    elif root not in _ALLOWED and root not in sys.stdlib_module_names:
        yield f"imports {root}, which players do not have"
    yield from _use(module)


def _use(dotted: str) -> Iterator[str]:
    for name in _SUSPECT_ATTRIBUTES:
        if dotted == name or dotted.startswith(f"{name}."):
            yield f"uses {name}"


def _aliases(tree: ast.Module) -> dict[str, str]:
    """What the names that imports bind stand for, wherever the imports are."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases.update({alias.asname: alias.name for alias in node.names if alias.asname})
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            aliases.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return aliases


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    """`torch.cuda.Event` for `t.cuda.Event` after `import torch as t`; empty for what does not begin with a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < _SHOWN:
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([aliases.get(node.id, node.id), *reversed(parts)])
