import hashlib
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from fastkernels_gym.catalog import bundled_models, load_model_config
from fastkernels_gym.errors import UnknownModel, UnsupportedModel, UserError


def _values(name: str = "tiny-llama") -> dict[str, object]:
    text = files("fastkernels_gym.tasks").joinpath("models", f"{name}.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _write(folder: Path, **changes: object) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(_values() | changes), encoding="utf-8")
    return str(path)


def test_every_bundled_model_has_an_operator_that_runs_it() -> None:
    assert {"tiny-llama", "llama-3.1-8b", "llama-3.2-1b"} <= set(bundled_models())
    for name in bundled_models():
        model = load_model_config(name)
        assert model.l4.startswith("L4/")
        assert model.dtype == (torch.float32 if name.startswith("tiny-") else torch.bfloat16)


def test_a_file_and_its_folder_are_the_same_model(tmp_path: Path) -> None:
    path = _write(tmp_path)
    by_file, by_folder = load_model_config(path), load_model_config(str(tmp_path))
    assert by_file.sha256 == by_folder.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert by_file.l4 == load_model_config("tiny-llama").l4


def test_a_changed_file_is_a_different_model(tmp_path: Path) -> None:
    before = load_model_config(_write(tmp_path))
    after = load_model_config(_write(tmp_path, num_hidden_layers=7))
    assert before.sha256 != after.sha256
    assert after.config.num_hidden_layers == 7


def test_an_unknown_name_is_told_what_is_bundled() -> None:
    with pytest.raises(UnknownModel, match=r"did you mean .*llama-3\.1-8b") as caught:
        load_model_config("lama-3.1-8b")
    assert "tiny-llama" in str(caught.value)


def test_an_unsupported_architecture_is_told_the_supported_ones(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="GPT2LMHeadModel.*LlamaForCausalLM"):
        load_model_config(_write(tmp_path, model_type="gpt2", architectures=["GPT2LMHeadModel"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "abc"},
        {"hidden_size": -5},
        {"hidden_size": None},
        {"num_hidden_layers": 10**9},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 0},
        {"vocab_size": 10**30},
        {"vocab_size": True},
        {"max_position_embeddings": 0},
        {"torch_dtype": "nope", "dtype": "nope"},
        {"dtype": "int8"},
        {"rope_parameters": "nope"},
        {"architectures": None},
        {"architectures": 5},
        {"model_type": 5},
        {"model_type": "nope"},
        {"id2label": 5},
    ],
)
def test_nonsense_is_one_clear_line(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        load_model_config(_write(tmp_path, **changes))
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tiny-mixtral", {"num_local_experts": 0}),
        ("tiny-mixtral", {"num_experts_per_tok": "two"}),
        ("tiny-qwen3-moe", {"num_experts": 10**12}),
        ("tiny-qwen3-moe", {"moe_intermediate_size": -1}),
        ("tiny-qwen3-moe", {"decoder_sparse_step": 0}),
    ],
)
def test_nonsense_about_experts_is_one_clear_line(tmp_path: Path, name: str, changes: dict[str, object]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(_values(name) | changes), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_model_config(str(path))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"a": 1}', b"[" * 100_000])
def test_what_is_no_config_is_an_unknown_model(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(UnknownModel, match="config"):
        load_model_config(str(path))


def test_a_hub_id_is_read_from_the_cache(tmp_path: Path) -> None:
    """In a process of its own: the cache's place is read when huggingface_hub is imported."""
    snapshot = tmp_path / "models--some-org--some-model" / "snapshots" / "0" / "config.json"
    snapshot.parent.mkdir(parents=True)
    _write(snapshot.parent)
    refs = tmp_path / "models--some-org--some-model" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0")
    program = """
from fastkernels_gym.catalog import load_task
from fastkernels_gym.errors import UnknownModel
print(load_task("L1/rms_norm@some-org/some-model:tiny").id)
try:
    load_task("L1/rms_norm@some-org/llama-3.1-8")
except UnknownModel as error:
    print(error)
"""
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    task_id, error = done.stdout.splitlines()
    assert task_id == "L1/rms_norm@some-org/some-model:tiny"
    assert "cannot be read" in error
    assert "did you mean" in error


@pytest.mark.parametrize("name", ["", "\0", ".", "/nowhere/config.json", "nowhere/config.json", "a" * 5000])
def test_what_is_no_model_at_all_is_an_unknown_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModel, match="bundled are"):
        load_model_config(name)
