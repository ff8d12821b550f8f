"""What a rank of two computes, first alone and then together with the other; saved in the folder `argv[1]`.

The two find each other by the environment that torchrun sets. The folder's `models.pt` holds (class, config,
checkpoint) by name. All weights go through the loaders whole, so that two ranks hold shards of what one rank holds. Of
the configs in its folders engines are made.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from fastkernels_gym.engine import Engine, load_model
from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, linear_block_table
from fastkernels_gym.engine.ranks import join
from fastkernels_gym.engine.step import forward_logits
from fastkernels_gym.tasks.baseline.L2.parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from fastkernels_gym.tasks.baseline.L2.parallel_linear import ColumnParallelLinear, RowParallelLinear
from fastkernels_gym.tasks.baseline.L4.gemma3 import Gemma3ForCausalLM
from fastkernels_gym.tasks.baseline.L4.llama import LlamaForCausalLM
from fastkernels_gym.tasks.baseline.L4.mixtral import MixtralForCausalLM
from fastkernels_gym.tasks.baseline.L4.phi3 import Phi3ForCausalLM
from fastkernels_gym.tasks.baseline.L4.qwen2 import Qwen2ForCausalLM
from fastkernels_gym.tasks.baseline.L4.qwen3 import Qwen3ForCausalLM
from fastkernels_gym.tasks.baseline.L4.qwen3_moe import Qwen3MoeForCausalLM

MODELS = (
    LlamaForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    Gemma3ForCausalLM,
    Phi3ForCausalLM,
    MixtralForCausalLM,
    Qwen3MoeForCausalLM,
)
CLASSES = {model.__name__: model for model in MODELS}
QUERY, BLOCK = [5, 1, 3], 4
PROMPTS = [[7, 3], [5] * 11, [149]]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape) * 0.3


def layers() -> dict[str, torch.Tensor]:
    x, tokens = drawn(7, 12), torch.arange(0, 150, 7)
    outputs = {}
    for name, layer, given in [
        ("column", ColumnParallelLinear(12, 10, gather_output=True), x),
        ("row", RowParallelLinear(12, 10, input_is_parallel=False), x),
        ("embedding", VocabParallelEmbedding(150, 12), tokens),
        ("head", ParallelLMHead(150, 12, bias=True), x),
    ]:
        rows = 150 if layer.weight.shape[0] in (192, 96) else 10
        for param, whole in ((layer.weight, drawn(rows, 12)), (getattr(layer, "bias", None), drawn(rows))):
            if param is not None:
                param.weight_loader(param, whole)
        output = layer(given)
        outputs[name] = output[0] if isinstance(output, tuple) else output
    return outputs


def logits(class_name: str, values: dict[str, Any], checkpoint: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of a prefill and of a decode step."""
    config = SimpleNamespace(**values)
    model = CLASSES[class_name](config)
    model.load_weights(checkpoint.items())
    table = linear_block_table(3, 8, BLOCK)
    cpu = torch.device("cpu")
    caches = allocate_kv_caches(config, table.numel(), BLOCK, cpu, torch.float32)
    outputs = []
    for query, context in ((QUERY, [0, 0, 0]), ([1, 1, 1], QUERY)):
        tokens = torch.randint(config.vocab_size, (sum(query),))
        outputs.append(forward_logits(model, Batch.build(query, context, table, BLOCK, cpu, tokens), caches))
    return outputs


def generated(folder: Path, tp: int) -> tuple[list[list[int]], list[list[int]]]:
    """What engines say, with random weights: greedily and by seeds; and by torch's generator, which differs by rank."""
    said, drawn = [], []
    for config in sorted(folder.glob("*/config.json")):
        model = load_model(config, "cpu", "float64", tp=tp).model
        engine = Engine(model, num_blocks=9, block_size=4, max_prefill_tokens=8)
        said += engine.generate(PROMPTS, 8, [0.0, 0.0, 5.0], ignore_eos=True, seed=4)
        torch.manual_seed(int(os.environ["RANK"]))
        drawn += engine.generate(PROMPTS, 8, 5.0)
    engine.close()  # leaves the group
    return said, drawn


def results(folder: Path, tp: int) -> dict[str, Any]:
    join(tp, torch.device("cpu"))
    torch.manual_seed(0)
    models = torch.load(folder / "models.pt")
    outputs, logits_of = layers(), {name: logits(*model) for name, model in models.items()}
    said, drawn = generated(folder, tp)
    return {"layers": outputs, "models": logits_of, "said": said, "drawn": drawn}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    runs = results(folder, 1), results(folder, 2)
    assert not dist.is_initialized()
    torch.save(runs, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
