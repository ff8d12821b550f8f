"""Who runs when."""

from fastkernels_gym.engine.blocks import BlockManager
from fastkernels_gym.engine.scheduler import Generation, Scheduler


def waiting(*lengths: int) -> list[Generation]:
    return [Generation([1] * length, length) for length in lengths]


def scheduler(generations: list[Generation], blocks: BlockManager, **bounds: int) -> Scheduler:
    made = Scheduler(blocks, **{"max_batch": 8, "max_prefill_tokens": 8, **bounds})
    for generation in generations:
        made.add(generation)
    return made


def passed(scheduler: Scheduler) -> list[tuple[Generation, int]]:
    """Runs a pass: everybody reads their share, and who has read all gets a token."""
    parts = scheduler.schedule()
    for part in parts:
        part.generation.computed += part.count
        if not part.generation.pending:
            part.generation.tokens.append(1)
    return [(part.generation, part.count) for part in parts]


def test_prefill_comes_first_and_is_bounded_by_rows_and_tokens() -> None:
    a, b, c, d, e = waiting(5, 3, 2, 1, 1)
    queue = scheduler([a, b, c, d, e], BlockManager(100, 4), max_batch=4)
    assert passed(queue) == [(a, 5), (b, 3)]
    assert passed(queue) == [(c, 2), (d, 1)]
    assert passed(queue) == [(a, 1), (b, 1), (c, 1), (d, 1)]
    queue.finish(b)
    assert passed(queue) == [(e, 1)]


def test_a_long_prompt_is_read_in_chunks_between_which_the_others_decode() -> None:
    short, long, last = waiting(2, 19, 3)
    queue = scheduler([short, long, last], BlockManager(100, 4))
    assert passed(queue) == [(short, 2), (long, 6)]
    assert passed(queue) == [(short, 1)]
    assert passed(queue) == [(long, 8)]
    assert passed(queue) == [(short, 1)]
    assert passed(queue) == [(long, 5), (last, 3)]
    assert passed(queue) == [(short, 1), (long, 1), (last, 1)]


def test_the_last_token_of_a_prompt_may_be_read_among_decodes() -> None:
    (long,) = waiting(9)
    queue = scheduler([long], BlockManager(100, 4))
    assert [passed(queue) for _ in range(3)] == [[(long, 8)], [(long, 1)], [(long, 1)]]
    assert len(long.tokens) == 11


def test_the_youngest_gives_way_and_comes_back_with_what_it_generated() -> None:
    old, young = waiting(2, 2)
    blocks = BlockManager(2, 2)
    queue = scheduler([old, young], blocks)
    assert passed(queue) == [(old, 2), (young, 2)]
    assert passed(queue) == [(old, 1)]
    assert (young.blocks, young.computed, len(old.blocks)) == ([], 0, 2)
    queue.finish(old)
    assert passed(queue) == [(young, 3)]
    assert young.generated == [1, 1]
    queue.finish(young)
    queue.finish(young)  # does nothing
    assert not queue and blocks.num_free == 2


def test_a_prompt_half_read_gives_way_too_and_begins_again() -> None:
    old, young = waiting(2, 6)
    queue = scheduler([old, young], BlockManager(4, 2), max_prefill_tokens=4)
    assert passed(queue) == [(old, 2), (young, 2)]
    assert passed(queue) == [(old, 1)] and young.blocks == []
    queue.finish(old)
    assert [passed(queue) for _ in range(2)] == [[(young, 4)], [(young, 2)]]


def test_who_waits_can_be_retired_and_all_pages_taken_back() -> None:
    a, b, c = waiting(4, 4, 4)
    blocks = BlockManager(2, 4)
    queue = scheduler([a, b, c], blocks)
    assert passed(queue) == [(a, 4), (b, 4)]
    queue.finish(c)
    queue.preempt_all()
    assert blocks.num_free == 2 and (a.computed, b.computed, c.finished) == (0, 0, True)
    queue.finish(b)
    assert passed(queue) == [(a, 5)]
    queue.finish(a)
    assert not queue and blocks.num_free == 2
