"""Models born without weights, and parameters bound to given memory."""

import pytest
import torch
from torch import nn

from fastkernels_gym.catalog import load_model_config
from fastkernels_gym.engine.build import bind_parameters, born_on_meta, build_model, materialise
from fastkernels_gym.engine.weights import fill_parameter, random_weights
from fastkernels_gym.tasks.baseline.L4.llama import LlamaForCausalLM

CPU = torch.device("cpu")


class Tied(nn.Module):
    """Two names of one parameter, a bias, a norm, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(4, 3))
        self.first.weight_loader = "kept"  # type: ignore[attr-defined]
        self.second = self.first
        self.bias = nn.Parameter(torch.empty(3))
        self.norm = nn.LayerNorm(8)
        self.register_parameter("absent", None)
        self.register_buffer("table", torch.arange(3.0))
        self.plain = torch.ones(2)


def memory(model: nn.Module) -> dict[str, torch.Tensor]:
    placed: dict[int, torch.Tensor] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: placed.setdefault(id(p), torch.zeros(p.shape, dtype=p.dtype)) for name, p in named}


def born() -> Tied:
    with born_on_meta():
        return Tied()


def test_parameters_are_born_on_meta_and_all_else_is_real() -> None:
    model = born()
    assert all(p.is_meta for p in model.parameters())
    assert model.first is model.second and model.first.weight_loader == "kept" and model.absent is None
    assert model.table.tolist() == [0, 1, 2] and model.plain.device == CPU


def test_a_parameter_made_once_and_registered_twice_stays_one() -> None:
    shared = nn.Parameter(torch.empty(2))
    with born_on_meta():
        first, second = nn.Module(), nn.Module()
        first.weight, second.weight = shared, shared
    assert first.weight is second.weight and first.weight.is_meta


def test_nothing_is_patched_afterwards_not_even_after_an_error() -> None:
    before = nn.Module.register_parameter
    born()
    with pytest.raises(ZeroDivisionError), born_on_meta():
        raise ZeroDivisionError
    assert nn.Module.register_parameter is before
    assert nn.Linear(1, 1).weight.device == CPU


def test_models_take_dtype_depth_and_device_and_leave_config_and_defaults_alone() -> None:
    config = load_model_config("tiny-llama").config
    model = build_model(config, LlamaForCausalLM, device=CPU, dtype=torch.bfloat16, num_layers=2)
    assert len(model.model.layers) == 2 and config.num_hidden_layers == 4
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and torch.get_default_dtype() == torch.float32
    assert all(p.is_meta and not p.requires_grad for p in model.parameters()) and not model.training
    assert model.model.layers[0].self_attn.rotary_emb.cos_sin_cache.device == CPU
    nowhere = build_model(config, LlamaForCausalLM, device=torch.device("meta"), dtype=torch.float32)
    assert all(t.is_meta for t in (*nowhere.parameters(), *nowhere.buffers()))


def test_bound_parameters_are_the_given_memory_with_loaders_and_ties() -> None:
    model = born()
    given = memory(model)
    bind_parameters(model, given)
    for name, param in model.named_parameters(remove_duplicate=False):
        assert param.data_ptr() == given[name].data_ptr()
    assert model.first is model.second and model.first.weight_loader == "kept"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("bias"), "'bias' is not given"),
        (lambda t: t.update(extra=torch.zeros(1)), "'extra' is not in the model"),
        (lambda t: t.update(bias=torch.zeros(4)), "'bias' is .*4.*expected .*3"),
        (lambda t: t.update(bias=torch.zeros(3, dtype=torch.float64)), "'bias' is .*float64.*expected .*float32"),
    ],
)
def test_binding_names_the_parameter_that_is_wrong(change, message) -> None:
    model = born()
    given = memory(model)
    change(given)
    with pytest.raises(ValueError, match=message):
        bind_parameters(model, given)


def test_random_weights_follow_the_rule_and_repeat_by_seed() -> None:
    def drawn() -> Tied:
        model = born()
        materialise(model, CPU)
        random_weights(model, torch.Generator().manual_seed(1), 0.5)
        return model

    model, again = drawn(), drawn()
    assert model.first is model.second
    for (name, param), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(param, other) and param.unique().numel() == param.numel(), name


@pytest.mark.parametrize(
    ("name", "shape", "mean", "std"),
    [
        ("model.norm.weight", (4096,), 1, 0.1),
        ("model.q_norm.bias", (4096,), 0, 0.02),
        ("qkv_proj.bias", (4096,), 0, 0.02),
        ("lm_head.weight", (64, 64), 0, 0.7),
    ],
)
def test_weights_have_the_mean_and_deviation_of_their_kind(name, shape, mean, std) -> None:
    tensor = torch.empty(shape)
    fill_parameter(name, tensor, torch.Generator().manual_seed(2), 0.7)
    assert tensor.mean().item() == pytest.approx(mean, abs=std / 10)
    assert tensor.std().item() == pytest.approx(std, rel=0.1)
