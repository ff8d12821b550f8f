"""Linear layers, whole or split over the ranks of a tensor-parallel group."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from ..L1.allreduce import AllReduce
from ..L1.linear import Linear
from ..operator import Operator
from ..parallel_state import divide, get_tp_group, get_tp_rank, get_tp_size
from ..weights import copy_shard, load_default, parameter, refuse

LinearOutput = torch.Tensor | tuple[torch.Tensor, nn.Parameter | None]


class ReplicatedLinear(Operator):
    """x @ weight.T + bias, the same on every rank.

    Args:
        input_size: columns of the weight.
        output_size: rows of the weight.
        bias: whether there is one.
        skip_bias_add: gives the bias back instead of adding it.
        params_dtype: of the parameters; None takes the default dtype.
        quant_config: not supported.
        prefix: the layer's name in the model.
        return_bias: False gives the product alone.
        disable_tp: treats the group as one rank.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        super().__init__()
        refuse(quant_config=quant_config)
        self.input_size, self.output_size = input_size, output_size
        self.skip_bias_add, self.return_bias = skip_bias_add, return_bias
        self.tp_size, self.tp_rank = (1, 0) if disable_tp else (get_tp_size(), get_tp_rank())
        self.linear = Linear()
        rows, columns = self.partition()
        self.weight = parameter(rows, columns, dtype=params_dtype, loader=self.load_weight)
        if bias:
            self.bias: nn.Parameter | None = parameter(self.bias_size(), dtype=params_dtype, loader=self.load_bias)
        else:
            self.register_parameter("bias", None)

    def partition(self) -> tuple[int, int]:
        """Rows and columns of this rank's weight."""
        return self.output_size, self.input_size

    def bias_size(self) -> int:
        return self.weight.shape[0]

    def load_weight(self, param: nn.Parameter, loaded: torch.Tensor) -> None:
        load_default(param, loaded)

    def load_bias(self, param: nn.Parameter, loaded: torch.Tensor) -> None:
        self.load_weight(param, loaded)

    def forward_native(self, x: torch.Tensor) -> LinearOutput:
        """Multiplies: (..., in) to (..., out), and the bias that was not added."""
        return self.result(self.linear(x, self.weight, None if self.skip_bias_add else self.bias))

    def result(self, output: torch.Tensor) -> LinearOutput:
        if not self.return_bias:
            return output
        return output, self.bias if self.skip_bias_add else None


class ColumnParallelLinear(ReplicatedLinear):
    """A linear layer whose output features are split over the ranks.

    Args:
        gather_output: gathers all ranks' features.
        tp_rank: not supported.
        tp_size: not supported.
        **: as of `ReplicatedLinear`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        gather_output: bool = False,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
        tp_rank: int | None = None,
        tp_size: int | None = None,
    ) -> None:
        refuse(tp_rank=tp_rank, tp_size=tp_size)
        self.gather_output = gather_output
        super().__init__(
            input_size, output_size, bias, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip

    def partition(self) -> tuple[int, int]:
        return divide(self.output_size, self.tp_size), self.input_size

    def load_weight(self, param: nn.Parameter, loaded: torch.Tensor) -> None:
        copy_shard(param.data, loaded, 0, self.tp_rank, self.tp_size)

    def forward_native(self, x: torch.Tensor) -> LinearOutput:
        """Multiplies: (..., in) to (..., out / ranks), or (..., out) where gathered."""
        output = self.linear(x, self.weight, None if self.skip_bias_add else self.bias)
        if self.gather_output and self.tp_size > 1:
            output = gather_last_dim(output, self.tp_size)
        return self.result(output)


class MergedColumnParallelLinear(ColumnParallelLinear):
    """Several column-parallel layers over one input: rank r holds [first_r; second_r; ...].

    Args:
        output_sizes: output features of each.
        **: as of `ColumnParallelLinear`.
    """

    def __init__(
        self,
        input_size: int,
        output_sizes: Sequence[int],
        bias: bool = True,
        gather_output: bool = False,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        self.output_sizes = list(output_sizes)
        super().__init__(
            input_size, sum(output_sizes), bias, gather_output, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip

    def partition(self) -> tuple[int, int]:
        return sum(divide(size, self.tp_size) for size in self.output_sizes), self.input_size

    def load_weight(self, param: nn.Parameter, loaded: torch.Tensor, shard_id: int | None = None) -> None:
        """Loads one layer's weight, or, without a shard id, all of them stacked."""
        if shard_id is None:
            for index, part in enumerate(split_rows(loaded, self.output_sizes)):
                self.load_weight(param, part, index)
            return
        target = param.data.split([size // self.tp_size for size in self.output_sizes])[shard_id]
        copy_shard(target, loaded, 0, self.tp_rank, self.tp_size)

    def load_bias(self, param: nn.Parameter, loaded: torch.Tensor, shard_id: int | None = None) -> None:
        self.load_weight(param, loaded, shard_id)


class QKVParallelLinear(ColumnParallelLinear):
    """The projections to queries, keys and values in one product: a rank's rows are [q | k | v].

    Where there are fewer KV heads than ranks, each rank holds one, replicated.

    Args:
        hidden_size: input features.
        head_size: size of a head.
        total_num_heads: query heads of all ranks.
        total_num_kv_heads: key and value heads of all ranks; None means as many as query heads.
        v_head_size: must equal `head_size`.
        **: as of `ColumnParallelLinear`.
    """

    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        total_num_heads: int,
        total_num_kv_heads: int | None = None,
        bias: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        quant_config: None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
        v_head_size: int | None = None,
    ) -> None:
        if v_head_size not in (None, head_size):
            raise ValueError(f"v_head_size={v_head_size} is not supported")
        ranks = 1 if disable_tp else get_tp_size()
        self.head_size, self.total_num_heads = head_size, total_num_heads
        self.total_num_kv_heads = total_num_kv_heads or total_num_heads
        self.num_heads = divide(total_num_heads, ranks)
        self.kv_shards = min(ranks, self.total_num_kv_heads)
        self.num_kv_heads = divide(self.total_num_kv_heads, self.kv_shards)
        self.kv_replicas = divide(ranks, self.kv_shards)
        output_size = (self.num_heads + 2 * self.num_kv_heads) * ranks * head_size
        super().__init__(
            hidden_size, output_size, bias, False, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip

    def load_weight(self, param: nn.Parameter, loaded: torch.Tensor, shard_id: str | None = None) -> None:
        """Loads queries, keys or values ("q", "k", "v"), or, without a shard id, all of them stacked."""
        if shard_id is None:
            heads = (self.total_num_heads, self.total_num_kv_heads, self.total_num_kv_heads)
            for name, part in zip("qkv", split_rows(loaded, [n * self.head_size for n in heads]), strict=True):
                self.load_weight(param, part, name)
            return
        heads = (self.num_heads, self.num_kv_heads, self.num_kv_heads)
        target = param.data.split([n * self.head_size for n in heads])["qkv".index(shard_id)]
        if shard_id == "q":
            copy_shard(target, loaded, 0, self.tp_rank, self.tp_size)
        else:
            copy_shard(target, loaded, 0, self.tp_rank // self.kv_replicas, self.kv_shards)

    def load_bias(self, param: nn.Parameter, loaded: torch.Tensor, shard_id: str | None = None) -> None:
        self.load_weight(param, loaded, shard_id)


class RowParallelLinear(ReplicatedLinear):
    """A linear layer whose input features are split over the ranks; the ranks' products are summed.

    Args:
        input_is_parallel: whether the input holds this rank's features alone.
        reduce_results: False leaves the sum to the caller.
        **: as of `ReplicatedLinear`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool = True,
        input_is_parallel: bool = True,
        skip_bias_add: bool = False,
        params_dtype: torch.dtype | None = None,
        reduce_results: bool = True,
        quant_config: None = None,
        prefix: str = "",
        *,
        return_bias: bool = True,
        disable_tp: bool = False,
    ) -> None:
        if not reduce_results and bias and not skip_bias_add:
            raise ValueError("a bias cannot be added to results that are not reduced")
        self.input_is_parallel, self.reduce_results = input_is_parallel, reduce_results
        super().__init__(
            input_size, output_size, bias, skip_bias_add, params_dtype, quant_config, prefix,
            return_bias=return_bias, disable_tp=disable_tp,
        )  # fmt: skip
        self.all_reduce = AllReduce()

    def partition(self) -> tuple[int, int]:
        return self.output_size, divide(self.input_size, self.tp_size)

    def load_weight(self, param: nn.Parameter, loaded: torch.Tensor) -> None:
        copy_shard(param.data, loaded, 1, self.tp_rank, self.tp_size)

    def load_bias(self, param: nn.Parameter, loaded: torch.Tensor) -> None:
        load_default(param, loaded)

    def forward_native(self, x: torch.Tensor) -> LinearOutput:
        """Multiplies: (..., in / ranks) to (..., out); the bias is added once, on rank 0, before the sum."""
        if not self.input_is_parallel and self.tp_size > 1:
            x = x.chunk(self.tp_size, dim=-1)[self.tp_rank]
        bias = None if self.skip_bias_add or self.tp_rank > 0 else self.bias
        output = self.linear(x, self.weight, bias)
        if self.reduce_results and self.tp_size > 1:
            output = self.all_reduce(output)
        return self.result(output)


def split_rows(loaded: torch.Tensor, sizes: Sequence[int]) -> Sequence[torch.Tensor]:
    """The weights that lie stacked in one.

    Raises:
        ValueError: if it has not all their rows.
    """
    if loaded.shape[0] != sum(sizes):
        raise ValueError(f"a weight of shape {list(loaded.shape)} is given for {sum(sizes)} rows")
    return loaded.split(list(sizes))


def gather_last_dim(x: torch.Tensor, ranks: int) -> torch.Tensor:
    """All ranks' features side by side: (..., size) to (..., ranks * size)."""
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(ranks)]
    dist.all_gather(parts, x, group=get_tp_group())
    return torch.cat(parts, dim=-1)


__all__ = [
    "ColumnParallelLinear",
    "MergedColumnParallelLinear",
    "QKVParallelLinear",
    "ReplicatedLinear",
    "RowParallelLinear",
]
