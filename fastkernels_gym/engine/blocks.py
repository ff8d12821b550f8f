"""Who holds which page of the KV cache."""

from __future__ import annotations

from fastkernels_gym.errors import FastKernelsError


class OutOfBlocks(FastKernelsError):
    """Fewer pages are free than are needed; none was taken."""


class BlockManager:
    """Deals pages; a page belongs to one sequence at a time and is used again once freed.

    Args:
        num_blocks: pages there are.
        block_size: tokens of a page.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free = list(reversed(range(num_blocks)))
        self._used: set[int] = set()

    @property
    def num_free(self) -> int:
        return len(self._free)

    def needed(self, tokens: int) -> int:
        """How many pages hold so many tokens."""
        return -(-tokens // self.block_size)

    def allocate(self, tokens: int) -> list[int]:
        """Pages for a sequence, in order.

        Raises:
            OutOfBlocks: if too few are free.
        """
        blocks: list[int] = []
        self.append(blocks, tokens)
        return blocks

    def append(self, blocks: list[int], tokens: int) -> None:
        """Adds pages to a sequence's until they hold `tokens` in all.

        Raises:
            OutOfBlocks: if too few are free.
        """
        missing = self.needed(tokens) - len(blocks)
        if missing > len(self._free):
            raise OutOfBlocks(f"{missing} more blocks are needed, {len(self._free)} of {self.num_blocks} are free")
        for _ in range(missing):
            block = self._free.pop()
            self._used.add(block)
            blocks.append(block)

    def free(self, blocks: list[int]) -> None:
        """Takes back a sequence's pages and empties its list.

        Raises:
            ValueError: if a page is not in use.
        """
        if len(self._used.intersection(blocks)) != len(blocks):
            raise ValueError(f"blocks {blocks} are not all in use, each once")
        self._used.difference_update(blocks)
        self._free.extend(reversed(blocks))
        blocks.clear()
