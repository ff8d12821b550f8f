"""Batches, block tables and KV caches."""

from types import SimpleNamespace

import pytest
import torch

from fastkernels_gym.engine.batch import Batch, allocate_kv_caches, kv_cache_shape, linear_block_table

CPU = torch.device("cpu")


def test_a_ragged_batch_says_where_each_token_belongs() -> None:
    table = torch.tensor([[3, 1, 0], [2, 5, 4]], dtype=torch.int32)
    batch = Batch.build([3, 1], [0, 4], table, 2, CPU, torch.tensor([7, 8, 9, 6]))
    assert batch.input_ids.tolist() == [7, 8, 9, 6]
    assert batch.positions.tolist() == [0, 1, 2, 4] and batch.positions.dtype == torch.int64
    metadata = batch.metadata
    assert metadata.slot_mapping.tolist() == [6, 7, 2, 8] and metadata.slot_mapping.dtype == torch.int64
    assert metadata.query_start_loc.tolist() == [0, 3, 4] and metadata.query_start_loc.dtype == torch.int32
    assert metadata.seq_lens.tolist() == [3, 5] and metadata.seq_lens.dtype == torch.int32
    assert torch.equal(metadata.block_table, table)
    assert (metadata.max_query_len, metadata.max_seq_len, metadata.is_decode) == (3, 6, False)


def test_a_batch_of_single_tokens_is_a_decode_step() -> None:
    batch = Batch.build([1, 1], [5, 0], linear_block_table(2, 6, 4), 4, CPU, torch.tensor([1, 2]))
    assert batch.metadata.is_decode and batch.metadata.slot_mapping.tolist() == [5, 8]


def test_a_chunk_reads_its_sequences_whole() -> None:
    table = torch.tensor([[3, 1, 0], [2, 5, 4]], dtype=torch.int32)
    cached = Batch.build([2, 1], [3, 1], table, 2, CPU, torch.tensor([7, 8, 9])).metadata.cached
    assert cached is not None and cached.max_len == 5
    assert cached.slots.tolist() == [6, 7, 2, 3, 0, 4, 5] and cached.start_loc.tolist() == [0, 5, 7]
    for query, context in (([2, 1], [0, 0]), ([1, 1], [3, 1])):
        ids = torch.zeros(sum(query), dtype=torch.int64)
        assert Batch.build(query, context, table, 2, CPU, ids).metadata.cached is None


def test_block_tables_give_no_page_twice_and_follow_the_permutation() -> None:
    assert linear_block_table(2, 5, 4).tolist() == [[0, 1], [2, 3]]
    shuffled = linear_block_table(2, 8, 4, permutation=[2, 0, 3, 1])
    assert shuffled.tolist() == [[2, 0], [3, 1]] and shuffled.dtype == torch.int32
    with pytest.raises(RuntimeError):
        linear_block_table(2, 8, 4, permutation=[0, 1, 2])


def test_kv_caches_have_the_shape_of_the_config() -> None:
    config = SimpleNamespace(hidden_size=12, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3)
    assert kv_cache_shape(config, 5, 16) == (5, 16, 2, 3)
    config.head_dim = 8
    caches = allocate_kv_caches(config, 5, 16, CPU, torch.bfloat16)
    assert len(caches) == 3 and len(allocate_kv_caches(config, 1, 1, CPU, torch.float32, num_layers=1)) == 1
    assert all(t.shape == (5, 16, 2, 8) and t.dtype == torch.bfloat16 and not t.any() for pair in caches for t in pair)
