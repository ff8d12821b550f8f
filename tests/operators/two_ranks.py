"""What rank `argv[1]` of two computes, first alone and then together with the other; saved in the folder `argv[2]`.

The folder's `models.pt` holds (class, config, checkpoint) by name. All weights go through the loaders whole, so that
two ranks hold shards of what one rank holds.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, linear_block_table
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


def results(folder: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    models = torch.load(folder / "models.pt")
    return {"layers": layers(), "models": {name: logits(*model) for name, model in models.items()}}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    alone = results(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    together = results(folder)
    dist.destroy_process_group()
    torch.save((alone, together), folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
