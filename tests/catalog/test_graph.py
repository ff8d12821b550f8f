import pytest

from fastkernels_gym.catalog import bundled_models, find_operator, import_graph, list_tasks, load_task, operators, rungs
from fastkernels_gym.errors import UnknownTask


def test_a_file_with_one_operator_gives_it_its_name() -> None:
    assert find_operator("L1/rms_norm").class_name == "RMSNorm"
    assert find_operator("L2/parallel_linear.QKVParallelLinear").family == "L2/parallel_linear"


def test_an_unknown_operator_is_told_close_ones() -> None:
    with pytest.raises(UnknownTask, match="did you mean L1/rms_norm"):
        find_operator("L1/rmsnorm")
    with pytest.raises(UnknownTask, match=r"several operators.*L2/parallel_linear\.RowParallelLinear"):
        find_operator("L2/parallel_linear")


def test_operators_use_only_their_own_level_and_lower_ones() -> None:
    for operator in operators().values():
        for part in import_graph(operator.id).parts(operator.id):
            assert part.level <= operator.level


def test_no_operator_uses_itself() -> None:
    for operator in operators().values():
        graph = import_graph(operator.id)
        assert operator not in graph.parts(operator.id)
        assert operator not in graph.users(operator.id)


@pytest.mark.parametrize("model", bundled_models())
def test_the_graph_finds_every_user_that_a_pass_shows(model: str) -> None:
    l4 = load_task(f"L4/*@{model}".replace("L4/*", list_tasks(f"L4/*@{model}")[0].partition("@")[0]))
    graph = import_graph(l4.model.l4)
    pairs = {pair for trace in l4.traces for pair in trace.nested}
    assert pairs
    missed = {(user, part) for user, part in pairs if user not in {found.id for found in graph.users(part)}}
    assert not missed


def test_the_ladder_of_an_l1_operator_climbs_to_the_layer() -> None:
    task = load_task("L1/linear@tiny-llama")
    levels = [operator.level for operator in task.ladder]
    assert levels == sorted(levels)
    names = [operator.id for operator in task.ladder]
    assert "L2/llama_mlp" in names
    assert names.index("L2/parallel_linear.RowParallelLinear") < names.index("L2/llama_mlp")
    assert names[-1] == "L3/llama_decoder"
    assert "L4/llama" not in names


def test_layers_and_models_have_no_rungs_above_but_the_model() -> None:
    layer, model = load_task("L3/llama_decoder@tiny-llama"), load_task("L4/llama@tiny-llama")
    assert layer.ladder == model.ladder == ()
    assert [rung.operator.id for rung in rungs(layer)] == ["L4/llama"]
    assert rungs(model) == ()


def test_shares_say_who_makes_the_calls() -> None:
    by_user = {rung.operator.id: rung for rung in rungs(load_task("L1/rms_norm@llama-3.1-8b"))}
    layer = by_user["L3/llama_decoder"]
    assert layer.calls == {"prefill": 64, "decode": 64}
    assert layer.share["decode"] == pytest.approx(64 / 65)
    assert by_user["L4/llama"].share == {"prefill": 1.0, "decode": 1.0}
    assert "L2/llama_mlp" not in by_user
