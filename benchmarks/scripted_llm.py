"""An LLM made of a script: it answers a question about a task as an LLM of middling skill might, and always the same.

What it writes is the reference, with faults or with a faster way for parts of it; which, its question's seed decides,
and how often it has been told what a kernel earned: it learns. Not what it was told: timings differ from run to run,
and its answers must not. Nothing is remembered between questions.
"""

from __future__ import annotations

import random
import re
from typing import Any

from fastkernels_gym.baselines.reference import native_module, native_name
from fastkernels_gym.catalog import load_task
from fastkernels_gym.catalog.operators import OperatorInfo

NAME = "scripted-llm"

FUSED = {
    "SiluAndMul": '''
class FusedSiluAndMul({base}):
    def forward(self, x):
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)
''',
    "RMSNorm": '''
class FusedRMSNorm({base}):
    def forward(self, x, residual=None):
        if residual is not None:
            x = residual = x + residual
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        out = (x * scale.add_(self.variance_epsilon).rsqrt_()).mul_(self.weight)
        return out if residual is None else (out, residual)
''',
    "RotaryEmbedding": '''
class FusedRotaryEmbedding({base}):
    def forward(self, positions, query, key=None):
        cos, sin = self.cos_sin_cache[positions].unsqueeze(1).chunk(2, dim=-1)
        for x in (query, key):
            if x is not None:
                a, b = x.unflatten(-1, (-1, self.head_size)).chunk(2, dim=-1)
                turned = a * sin
                a.mul_(cos).addcmul_(b, sin, value=-1)
                b.mul_(cos).add_(turned)
        return query, key
''',
    "FlashAttnPrefill": '''
class FusedFlashAttnPrefill({base}):
    def forward(self, query, key, value, query_start_loc, max_query_len):
        lengths = query_start_loc.diff().tolist()
        if len(set(lengths)) == 1:  # one batch instead of a loop
            return self.attend(*(t.unflatten(0, (len(lengths), -1)) for t in (query, key, value))).flatten(0, 1)
        parts = zip(*(t.split(lengths) for t in (query, key, value)))
        return torch.cat([self.attend(q[None], k[None], v[None])[0] for q, k, v in parts])

    def attend(self, query, key, value):
        hidden = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool, device=query.device).triu_(1)
        q = query.unflatten(2, (self.num_kv_heads, -1)).permute(0, 2, 3, 1, 4)
        k, v = (t.permute(0, 2, 1, 3).unsqueeze(2) for t in (key, value))
        scores = (q @ k.mT).mul_(self.scale).masked_fill_(hidden, float("-inf"))
        return (scores.softmax(-1) @ v).flatten(1, 2).transpose(1, 2).contiguous()
''',
    "FlashAttnDecode": '''
class FusedFlashAttnDecode({base}):
    def forward(self, query, key_cache, value_cache, block_table, seq_lens, max_seq_len):
        pages = block_table[:, : -(-max_seq_len // key_cache.shape[1])].long().clamp_(min=0)
        k, v = (cache[pages].flatten(1, 2).transpose(1, 2) for cache in (key_cache, value_cache))
        seen = torch.arange(k.shape[2], device=k.device) < seq_lens[:, None]
        # What lies beyond a sequence's end may be anything, not a number included.
        v = v.masked_fill(~seen[:, None, :, None], 0.0)
        q = query.unflatten(1, (self.num_kv_heads, -1))
        scores = (q @ k.mT).mul_(self.scale).masked_fill_(~seen[:, None, None], float("-inf"))
        return (scores.softmax(-1) @ v).flatten(1, 2)
''',
}  # fmt: skip

IMPORTS = ("import torch", "from torch import nn", "from torch.nn import functional")
SWAPPED = '''

class {name}({native}):
    """The reference's layout; its parts compute in fewer passes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for part in self.modules():
            part.__class__ = FASTER.get(type(part), type(part))

    def forward(self, *args, **kwargs):
        return self.forward_native(*args, **kwargs)
'''
SCALED = """

def scaled(found):
    if isinstance(found, tuple):
        return tuple(map(scaled, found))
    return found * 1.01 if isinstance(found, torch.Tensor) else found
"""
PLAIN = """

class {name}({native}):
    def forward(self, *args, **kwargs):
{body}
"""
BODIES = {
    "reference": "        return self.forward_native(*args, **kwargs)",
    "broken": "        return self.forward_native(*args, **kwargs)",
    "slow": "        self.forward_native(*args, **kwargs)  # warms the cache\n"
    "        return self.forward_native(*args, **kwargs)",
    "scaled": "        return scaled(self.forward_native(*args, **kwargs))",
    "failing": "        raise RuntimeError(f'no kernel for {len(args)} arguments')",
    "unbound": "        return self.forward_fused(*args, **kwargs)",
}
# What it writes, worst first; its skill decides how far down it gets.
LADDER = ("silent", "broken", "failing", "unbound", "scaled", "slow", "reference", "fused", "fused")


def reply(request: dict[str, Any]) -> str:
    """The answer to a request for a chat completion, by its messages and its seed."""
    messages = request["messages"]
    found = re.search(r"The id of this task is `([^`]+)`", messages[1]["content"])
    assert found is not None
    operator = load_task(found[1]).operator
    draw = random.Random(f"{operator.id} {request.get('seed')}")
    told = sum(message["role"] == "user" for message in messages[2:])
    rung = min(len(LADDER) - 1, draw.randrange(len(LADDER)) + draw.randrange(3 * told + 1))
    return write(operator, LADDER[rung])


def write(operator: OperatorInfo, kind: str) -> str:
    """A reply of one kind about an operator."""
    if kind == "silent":
        return "The reference is bound by memory; I would fuse its passes. Shall I go on?"
    source = module(operator, kind)
    source = "".join(f"{line}\n" for line in IMPORTS if f"{line}\n" not in source) + source
    if kind == "broken":
        source = source[: source.rindex("(*args")] + "(*args\n"
    return f"Here is the module.\n\n```python\n{source}```\n"


def module(operator: OperatorInfo, kind: str) -> str:
    """The module that replaces an operator, imports apart."""
    names = {"name": operator.class_name, "native": native_name(operator)}
    reference = native_module(operator).replace("from __future__ import annotations\n", "")
    if kind != "fused":
        scaled = SCALED if kind == "scaled" else ""
        return reference + scaled + PLAIN.format(**names, body=BODIES[kind])
    if operator.class_name in FUSED:
        own = FUSED[operator.class_name].format(base=names["native"])
        return reference + "\n" + own.replace(f"class Fused{operator.class_name}", f"class {operator.class_name}")
    parts = [name for name in FUSED if operator.level > 1]
    imports = "".join(f"from fastkernels_gym.tasks.baseline.L1.{FILES[name]} import {name}\n" for name in parts)
    classes = "\n".join(FUSED[name].format(base=name) for name in parts)
    table = "\n\nFASTER = {" + ", ".join(f"{name}: Fused{name}" for name in parts) + "}\n"
    return imports + reference + "\n" + classes + table + SWAPPED.format(**names)


FILES = {
    "SiluAndMul": "silu_and_mul",
    "RMSNorm": "rms_norm",
    "RotaryEmbedding": "rotary_emb",
    "FlashAttnPrefill": "flash_attn_prefill",
    "FlashAttnDecode": "flash_attn_decode",
}
