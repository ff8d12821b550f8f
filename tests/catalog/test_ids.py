import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.catalog import TaskId
from fastkernels_gym.errors import UnknownTask

_words = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,12}", fullmatch=True)
_operators = st.builds(lambda level, name: f"L{level}/{name}", st.integers(1, 4), _words)
_models = st.one_of(
    _words,
    st.builds("{}/{}".format, _words, _words),
    st.builds("/tmp/{} {}/config.json".format, _words, _words),
)
_names = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
_ids = st.one_of(
    st.builds(TaskId, _operators, _models, st.integers(1, 64)),
    st.builds(TaskId, _operators, _models, st.integers(1, 64), _names),
    st.builds(TaskId, _operators, _models, st.integers(1, 64), _names, _names),
)


@given(_ids)
def test_an_id_reads_back_what_it_writes(task_id: TaskId) -> None:
    assert TaskId.parse(str(task_id)) == task_id


@given(st.text(max_size=40))
def test_any_text_is_an_id_or_an_unknown_task(text: str) -> None:
    try:
        parsed = TaskId.parse(text)
    except UnknownTask as error:
        assert "<operator>@<model>" in str(error)
    else:
        assert TaskId.parse(str(parsed)) == parsed


@pytest.mark.parametrize("text", ["", "@", "L1/rms_norm", "L1/rms_norm@", "@llama-3.1-8b"])
def test_what_is_no_id_names_the_grammar(text: str) -> None:
    with pytest.raises(UnknownTask, match="<operator>@<model>"):
        TaskId.parse(text)


def test_the_parts_of_a_full_id() -> None:
    parsed = TaskId.parse("L2/parallel_linear.QKVParallelLinear@meta-llama/Llama-3.1-8B+tp2:chat/decode")
    expected = TaskId("L2/parallel_linear.QKVParallelLinear", "meta-llama/Llama-3.1-8B", 2, "chat", "decode")
    assert parsed == expected
