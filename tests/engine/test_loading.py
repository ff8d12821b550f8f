"""From a name to an engine."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import fastkernels_gym
from fastkernels_gym.engine import load_model
from fastkernels_gym.errors import UnknownModel


def test_bundled_models_get_the_same_random_weights_every_time() -> None:
    first, again = (fastkernels_gym.load_model("tiny-qwen3", device="cpu") for _ in range(2))
    assert first.dtype == torch.float32 and first.device.type == "cpu"
    prompt = [5, 6, 7]
    assert torch.equal(first.logits([prompt])[0], again.logits([prompt])[0])
    assert len(first.generate([prompt], 4, ignore_eos=True)[0]) == 4


def test_dtype_and_device_may_be_named(llama) -> None:
    model = load_model(str(llama.folder / "config.json"), "cpu", "bfloat16", "checkpoint")
    assert model.dtype == torch.bfloat16 and model.logits([[1, 2]])[0].dtype == torch.float32
    assert load_model(llama.folder, "cpu", torch.float64).dtype == torch.float64
    for wrong in ({"dtype": "int8"}, {"device": "tape"}, {"weights": "zero"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            load_model(llama.folder, **wrong)


def test_a_checkpoint_that_is_missing_or_another_models_is_refused(llama, tmp_path) -> None:
    with pytest.raises(UnknownModel, match="config alone"):
        load_model("tiny-llama", weights="checkpoint")
    shutil.copy(llama.folder / "config.json", tmp_path)
    with pytest.raises(UnknownModel, match="no .*safetensors"):
        load_model(tmp_path, "cpu", weights="checkpoint")
    tensors = load_file(llama.folder / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnknownModel, match="lacks model.norm.weight"):
        load_model(tmp_path, "cpu", weights="checkpoint")
    save_file({**tensors, "model.norm.weight": norm[:3]}, tmp_path / "model.safetensors")
    with pytest.raises(UnknownModel, match="shape"):
        load_model(tmp_path, "cpu", weights="checkpoint")
    (tmp_path / "model.safetensors").write_bytes(b"no header")
    with pytest.raises(UnknownModel, match=str(tmp_path)):
        load_model(tmp_path, "cpu", weights="checkpoint")


def test_ranks_that_were_not_started_are_asked_for(monkeypatch) -> None:
    for world in ("", "4"):
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(ValueError, match="torchrun --nproc-per-node 2"):
            load_model("tiny-llama", "cpu", tp=2)
    with pytest.raises(ValueError, match="tp=0, but this process is one of 1 ranks"):
        load_model("tiny-llama", "cpu", tp=0)


def test_the_index_says_which_shards_count(qwen3, tmp_path) -> None:
    assert len(list(qwen3.folder.glob("*.safetensors"))) > 1
    folder = shutil.copytree(qwen3.folder, tmp_path / "twice")
    save_file({"model.stray": torch.ones(1)}, folder / "consolidated.safetensors")
    ours = load_model(folder, "cpu", weights="checkpoint").logits([[1, 2]])[0]
    torch.testing.assert_close(ours, qwen3.logits([1, 2]), atol=1e-4, rtol=1e-4)
