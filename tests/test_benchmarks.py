"""The benchmarks of operators and models run from end to end; on a CPU their figures mean nothing."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

SMALL = ["--device", "cpu", "--prompt", "32", "--context", "16", "--batches", "2", "--layers", "2", "--no-compile"]


def run(script: str, *options: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{script}.py", *SMALL, *options, "--out", str(out)])
    importlib.import_module(script).main()
    return json.loads(out.read_text())


def test_every_case_of_an_operator_is_timed_with_its_rivals_and_drawn(tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "roofline.json"
    found = run("roofline", "--models", "tiny-llama", "--operators", "L1/[flr]*", out=out, monkeypatch=monkeypatch)
    rows = {(row["operator"], row["phase"], row["label"]): row for row in found["rows"]}
    hidden, inner = 256, 704
    norm = rows["L1/rms_norm", "prefill 1 x 32", "post_attention_layernorm"]
    assert norm["bytes"] == 4 * 32 * hidden * 4 and norm["flops"] == 0 and norm["rivals"].keys() == {"eager"}
    down = rows["L1/linear", "decode 2 x 16", "down_proj"]
    assert down["bytes"] == 4 * (inner * hidden + 2 * (inner + hidden)) and down["flops"] == 2 * 2 * inner * hidden
    assert down["us"] > 0 and down["rivals"].keys() == {"cublas"}
    assert {phase for operator, phase, _ in rows if operator == "linears of a layer"} == {
        "prefill 1 x 32",
        "decode 2 x 16",
    }
    ragged = rows["L1/flash_attn_prefill", "prefill 46+1+32+1+10", "alone"]
    assert ragged["rivals"]["varlen_attn"] > 0 if "varlen_attn" in ragged["rivals"] else ragged["faults"]["varlen_attn"]
    assert not found["faults"] and out.with_name("roofline-tiny-llama.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert all(f"{target['what']} | {target['asked']} | " in printed for target in found["targets"])
    assert any("over cuBLAS" in target["what"] for target in found["targets"])


def test_a_model_is_timed_against_transformers_over_the_same_weights(tmp_path, monkeypatch, capsys) -> None:
    name, depths = "tiny-qwen3-moe", ["--transformers-layers", "1", "2"]
    found = run("models", "--models", name, *depths, out=tmp_path / "models.json", monkeypatch=monkeypatch)
    assert found["models"][name]["logits_off"] < 1e-4
    assert [(cell["phase"], cell["batch"]) for cell in found["cells"]] == [("prefill", 1), ("decode", 2)]
    for cell in found["cells"]:
        assert cell["seconds"] > 0 and cell["peers"].keys() == {"eager"} and not cell["faults"]
    assert f"{name}: decode 2 x 16, transformers' best over ours | > 1 | " in capsys.readouterr().out
