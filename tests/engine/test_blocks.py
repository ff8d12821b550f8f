"""Pages are dealt once, used again, and never lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.engine.blocks import BlockManager, OutOfBlocks


@given(
    num_blocks=st.integers(0, 12),
    block_size=st.integers(1, 5),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=40),
)
def test_pages_in_use_and_free_are_always_all_pages(num_blocks, block_size, steps) -> None:
    manager = BlockManager(num_blocks, block_size)
    held: dict[int, list[int]] = {}
    for sequence, tokens in steps:
        before, free = list(held.get(sequence, [])), manager.num_free
        try:
            if sequence not in held:
                held[sequence] = manager.allocate(tokens)
            elif tokens % 3 == 0:
                manager.free(held.pop(sequence))
                tokens = 0
            else:
                manager.append(held[sequence], tokens)
        except OutOfBlocks:
            assert manager.needed(tokens) - len(before) > free == manager.num_free
            assert held.get(sequence, []) == before
        else:
            blocks = held.get(sequence, [])
            assert len(blocks) * block_size >= tokens and blocks[: len(before)] == before or not blocks
        used = [block for blocks in held.values() for block in blocks]
        assert len(set(used)) == len(used) and set(used) <= set(range(num_blocks))
        assert manager.num_free == num_blocks - len(used)


def test_freed_pages_are_dealt_again() -> None:
    manager = BlockManager(4, 16)
    first, second = manager.allocate(33), manager.allocate(16)
    assert (len(first), len(second), manager.num_free) == (3, 1, 0)
    with pytest.raises(OutOfBlocks, match="1 more blocks are needed, 0 of 4 are free"):
        manager.append(second, 17)
    taken = set(first)
    manager.free(first)
    manager.append(second, 64)
    assert first == [] and set(second[1:]) == taken


def test_pages_that_are_not_in_use_cannot_be_freed() -> None:
    manager = BlockManager(2, 1)
    blocks = manager.allocate(2)
    for wrong in ([5], [blocks[0], blocks[0]]):
        with pytest.raises(ValueError, match="not all in use"):
            manager.free(wrong)
    manager.free(list(blocks))
    with pytest.raises(ValueError, match="not all in use"):
        manager.free(blocks)
    assert manager.num_free == 2
