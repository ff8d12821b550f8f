"""The space of source texts."""

import ast
import json

import pytest
from gymnasium.spaces import Dict
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.candidate import parse_reply
from fastkernels_gym.envs import Source


@given(st.text(max_size=40), st.integers(0, 60))
def test_membership_is_by_utf8_length(text: str, bound: int) -> None:
    space = Source(bound, samples=("",))
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        assert text not in space
    else:
        assert (text in space) == (length <= bound)


@pytest.mark.parametrize("other", [b"bytes", 3, None, ["x"], "\ud800"])
def test_what_is_no_text_is_no_member(other: object) -> None:
    assert other not in Source(1000)


def test_samples_are_seeded_and_hold_candidates() -> None:
    space = Source(4096, seed=7)
    drawn = [space.sample() for _ in range(20)]
    assert Source(4096, seed=7).sample() == drawn[0]
    space.seed(7)
    assert drawn == [space.sample() for _ in range(20)]
    assert len(set(drawn)) > 1
    for text in set(drawn):
        source = parse_reply(text)
        assert text in space and source is not None
        assert any(isinstance(node, ast.ClassDef) for node in ast.parse(source).body)


def test_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        Source(4096).sample(mask=(1,))  # type: ignore[arg-type]


def test_samples_must_fit() -> None:
    with pytest.raises(ValueError, match="at most 10 bytes"):
        Source(10)
    with pytest.raises(ValueError, match="negative"):
        Source(-1)


def test_equality_repr_and_json() -> None:
    assert Source(4096) == Source(4096, seed=3) != Source(4097)
    assert Source(4096) != "Source(4096)"
    assert hash(Source(4096)) == hash(Source(4096))
    assert repr(Source(4096)) == "Source(4096)"
    texts = ["x = 1\n", "π = 'µ'\n"]
    assert Source(4096).from_jsonable(json.loads(json.dumps(Source(4096).to_jsonable(texts)))) == texts


def test_it_cannot_be_flattened_and_can_be_batched() -> None:
    assert not Source(4096).is_np_flattenable
    assert not Dict(code=Source(4096)).is_np_flattenable
    batch = batch_space(Source(4096, seed=1), 3)
    assert len(batch.sample()) == 3 and batch.sample() in batch
