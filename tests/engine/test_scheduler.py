"""Who runs when."""

from fastkernels_gym.engine.blocks import BlockManager
from fastkernels_gym.engine.scheduler import Generation, Scheduler


def test_prefill_comes_first_and_is_bounded_by_rows_and_tokens() -> None:
    a, b, c, d = (Generation([1] * n, n) for n in (9, 3, 4, 1))
    scheduler = Scheduler([a, b, c, d], BlockManager(100, 4), max_batch=3, max_prefill_tokens=8)
    assert scheduler.schedule() == ([a], True)  # longer than the bound, hence alone
    assert scheduler.schedule() == ([b, c], True)
    assert scheduler.schedule() == ((a, b, c), False)
    scheduler.finish(b)
    assert scheduler.schedule() == ([d], True)


def test_the_youngest_gives_way_and_comes_back_with_what_it_generated() -> None:
    old, young = Generation([1, 1], 2), Generation([2, 2], 2)
    blocks = BlockManager(2, 2)
    scheduler = Scheduler([old, young], blocks, max_batch=8, max_prefill_tokens=8)
    assert scheduler.schedule() == ([old, young], True)
    old.tokens.append(3)
    young.tokens.append(4)
    assert scheduler.schedule() == ((old,), False)
    assert young.blocks == [] and len(old.blocks) == 2
    scheduler.finish(old)
    assert scheduler.schedule() == ([young], True)
    assert young.tokens == [2, 2, 4] and young.generated == [4]
    scheduler.abort()
    assert not scheduler and blocks.num_free == 2
