"""Token embedding and output head, their vocabulary split over the ranks."""

from __future__ import annotations

import torch
from torch import nn

from ..L1.allreduce import AllReduce
from ..L1.embedding import Embedding
from ..L1.linear import Linear
from ..operator import Operator
from ..parallel_state import divide, get_tp_rank, get_tp_size
from ..weights import parameter, refuse
from .parallel_linear import gather_last_dim


class VocabParallelEmbedding(Operator):
    """Rows of the embedding table. The vocabulary is padded to a multiple of 64, then split.

    Args:
        num_embeddings: the vocabulary's size.
        embedding_dim: size of a row.
        params_dtype: the table's; None takes the default dtype.
        org_num_embeddings: must be None or the vocabulary's size.
        padding_size: the vocabulary is padded to a multiple of it.
        quant_config: not supported.
        prefix: the layer's name in the model.
        disable_tp: treats the group as one rank.
        reduce_results: False leaves the sum over the ranks to the caller.
        quant_method: not supported.
        parallel_group: not supported.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        params_dtype: torch.dtype | None = None,
        org_num_embeddings: int | None = None,
        padding_size: int = 64,
        quant_config: None = None,
        prefix: str = "",
        *,
        disable_tp: bool = False,
        reduce_results: bool = True,
        quant_method: None = None,
        parallel_group: None = None,
    ) -> None:
        super().__init__()
        refuse(quant_config=quant_config, quant_method=quant_method, parallel_group=parallel_group)
        if org_num_embeddings not in (None, num_embeddings):
            raise ValueError(f"org_num_embeddings={org_num_embeddings} is not supported")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.tp_size, self.tp_rank = (1, 0) if disable_tp else (get_tp_size(), get_tp_rank())
        self.reduce_results = reduce_results
        self.rows = divide(-(-num_embeddings // padding_size) * padding_size, self.tp_size)
        self.first = self.tp_rank * self.rows
        self.weight = parameter(self.rows, embedding_dim, dtype=params_dtype, loader=self.load_weight)
        self.embedding, self.all_reduce = Embedding(), AllReduce()

    def load_weight(self, param: nn.Parameter, loaded: torch.Tensor) -> None:
        """Copies this rank's rows; padding is zero.

        Raises:
            ValueError: if `loaded` is not one row a token of the vocabulary.
        """
        if loaded.shape[0] != self.num_embeddings or loaded.shape[1:] != param.shape[1:]:
            raise ValueError(f"a weight of shape {list(loaded.shape)} is not of {self.num_embeddings} tokens")
        share = loaded[self.first : self.first + self.rows]
        param.data[: len(share)] = share
        param.data[len(share) :] = 0

    def forward_native(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Looks up: (tokens,) int64 to (tokens, size)."""
        if self.tp_size == 1:
            return self.embedding(input_ids, self.weight)
        local = input_ids - self.first
        outside = (local < 0) | (local >= self.rows)
        rows = self.embedding(local.masked_fill(outside, 0), self.weight).masked_fill(outside.unsqueeze(-1), 0)
        return self.all_reduce(rows) if self.reduce_results else rows


class ParallelLMHead(VocabParallelEmbedding):
    """Logits of the whole vocabulary; the weight is stored like the embedding's and may be the same.

    Args:
        bias: whether there is one.
        **: as of `VocabParallelEmbedding`.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        bias: bool = False,
        params_dtype: torch.dtype | None = None,
        org_num_embeddings: int | None = None,
        padding_size: int = 64,
        quant_config: None = None,
        prefix: str = "",
        *,
        disable_tp: bool = False,
        quant_method: None = None,
    ) -> None:
        super().__init__(
            num_embeddings, embedding_dim, params_dtype, org_num_embeddings, padding_size, quant_config, prefix,
            disable_tp=disable_tp, quant_method=quant_method,
        )  # fmt: skip
        self.linear = Linear()
        if bias:
            self.bias: nn.Parameter | None = parameter(self.rows, dtype=params_dtype, loader=self.load_weight)
        else:
            self.register_parameter("bias", None)

    def forward_native(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Projects: (rows, hidden) to (rows, vocabulary), padding cut off."""
        logits = self.linear(hidden_states, self.weight, self.bias)
        if self.tp_size > 1:
            logits = gather_last_dim(logits, self.tp_size)
        return logits[..., : self.num_embeddings]


__all__ = ["ParallelLMHead", "VocabParallelEmbedding"]
