"""The agent `compile`: torch.compile of the reference.

Every number of tokens that the workload calls with gets a specialisation of its own; others run uncompiled, so that
unseen shapes cost no compilation. What reads the forward context stays out: its code differs from layer to layer. So
a compiled attention block keeps `attend` as it is, a compiled layer keeps its attention, a compiled model compiles its
layers one by one. Parts dispatch as they do elsewhere and are compiled into their user.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from fastkernels_gym.agent import Proposal, Turn
from fastkernels_gym.baselines.reference import native_module, native_name
from fastkernels_gym.catalog import OperatorInfo, Task, import_graph
from fastkernels_gym.catalog.source import Source, load_source, names_in

_CONTEXT = "get_forward_context"

_HEAD = '''
import torch
import torch._dynamo

# One specialisation a shape and kind of call; the default of eight is soon used up.
torch._dynamo.config.recompile_limit = 64
TOKENS = {tokens}


@torch.compile(dynamic=False)
def compiled(module, *args, **kwargs):
    return module.forward_native(*args, **kwargs)


def run(module, *args, **kwargs):
    """Compiled for the workload's numbers of tokens, plain for all others."""
    first = next(iter((*args, *kwargs.values())))
    if first.shape[0] in TOKENS:
        return compiled(module, *args, **kwargs)
    return module.forward_native(*args, **kwargs)
'''

_PART = '''

class {name}({base}):
    """The reference, compiled."""

{plain}    def forward(self, *args, **kwargs):
        return run(self, *args, **kwargs)
'''

_PLAIN_METHOD = """    {method} = torch.compiler.disable({base}.{method})

"""

_LEAVE_ATTENTION = '''
from fastkernels_gym.tasks.baseline.L1.store_kvcache import StoreKVCache


def leave_attention(layer):
    """Keeps Dynamo out of the blocks that write to the KV cache."""
    for block in layer.children():
        if any(isinstance(part, StoreKVCache) for part in block.modules()):
            block.forward = torch.compiler.disable(block.forward)
'''

_LAYER = '''

class {name}({base}):
    """The reference, compiled but for its attention."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        leave_attention(self)

    def forward(self, *args, **kwargs):
        return run(self, *args, **kwargs)
'''

_MODEL = '''
from functools import partial
{imports}

class {name}({base}):
    """The reference, its layers compiled but for their attention."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, ({layers},)):
                leave_attention(module)
                module.forward = partial(run, module)

    def forward(self, *args, **kwargs):
        return self.forward_native(*args, **kwargs)
'''


class CompileAgent:
    """Submits the reference under torch.compile."""

    name = "compile"
    llm = None

    async def propose(self, task: Task, history: Sequence[Turn], *, sample: int = 0) -> Proposal:
        return Proposal(compiled_module(task))

    async def aclose(self) -> None:
        pass


def compiled_module(task: Task) -> str:
    """The candidate: the reference's module and a subclass that compiles it."""
    operator, base = task.operator, native_name(task.operator)
    firsts = (next(arg for arg in case.args if arg.shape) for case in task.cases)
    tokens = sorted({first.shape[0] for first in firsts if first.shape})
    text = native_module(operator) + _HEAD.format(tokens=tokens)
    if operator.level >= 3:
        text += _LEAVE_ATTENTION
    if operator.level == 4:
        layers = [part for part in import_graph(task.model.l4).parts(operator.id) if part.level == 3]
        imports = "".join(f"from {layer.module} import {layer.class_name}\n" for layer in layers)
        names = ", ".join(layer.class_name for layer in layers)
        return text + _MODEL.format(name=operator.class_name, base=base, imports=imports, layers=names)
    if operator.level == 3:
        return text + _LAYER.format(name=operator.class_name, base=base)
    plain = "".join(_PLAIN_METHOD.format(method=method, base=base) for method in _context_methods(operator))
    return text + _PART.format(name=operator.class_name, base=base, plain=plain)


def _context_methods(operator: OperatorInfo) -> list[str]:
    """The methods of an operator, inherited ones included, that read the forward context."""
    return list(dict.fromkeys(_reading(load_source(operator.module), operator.class_name)))


def _reading(source: Source, class_name: str) -> Iterator[str]:
    found = source.find_class(class_name)
    if found is None:
        return
    home, definition = found
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and _CONTEXT in names_in(node):
            yield node.name
    for base in home.bases(definition):
        yield from _reading(home, base)
