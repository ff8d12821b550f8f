"""The agent `hf` with a real, tiny and untrained chat model; and the same model behind a server, for `gpt`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import Answer, ChatServer, chunk, json_answer

from fastkernels_gym.baselines import AgentOptions, resolve_agent
from fastkernels_gym.cli.app import run
from fastkernels_gym.errors import UserError

TASK = "L1/rms_norm@tiny-llama"
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer that was never trained, and a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(["<|end|>", *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=TEMPLATE)
    fast.save_pretrained(path)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=257, max_position_embeddings=16384, eos_token_id=0, **size)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def evaluate(out: Path, *arguments: str) -> list[dict[str, Any]]:
    command = ["eval", "--tasks", TASK, "--measure", "op", "--budget", "0.1", "--device", "cpu", "--out", str(out)]
    assert run([*command, "--reply-tokens", "24", *arguments]) == 0
    return [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]


def test_a_local_model_and_the_same_behind_a_server_say_the_same(chat_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ours = evaluate(tmp_path / "hf", "--agent", "hf", "--model", str(chat_model), "--samples", "2", "--turns", "2")
    assert len({line["key"] for line in ours}) == len(ours) == 4
    assert all(line["reply"] and line["usage"]["completion_tokens"] <= 24 for line in ours)

    tokenizer: Any = AutoTokenizer.from_pretrained(chat_model)
    model: Any = AutoModelForCausalLM.from_pretrained(chat_model).eval()

    def reply(request: dict[str, Any]) -> Answer:
        prompt = tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
        out = model.generate(ids, do_sample=False, max_new_tokens=request["max_completion_tokens"], pad_token_id=0)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": out.shape[1] - ids.shape[1], "total_tokens": 0}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return json_answer(chunk(object="chat.completion", choices=choices, usage=usage))

    with ChatServer(reply) as server:
        served = evaluate(tmp_path / "gpt", "--agent", "gpt", "--model", "tiny", "--base-url", server.url)
    first = next(line for line in ours if (line["sample"], line["turn"]) == (0, 0))
    assert (first["reply"], first["usage"]) == (served[0]["reply"], served[0]["usage"])


def test_a_chat_beyond_the_context_is_one_recorded_fault(chat_model: Path) -> None:
    import asyncio

    from fastkernels_gym.baselines.local_chat import LocalChat

    async def ask() -> Any:
        chat = LocalChat(str(chat_model), max_new_tokens=4)
        short, long = {"role": "user", "content": "hi"}, {"role": "user", "content": "x" * 20_000}
        try:
            return await asyncio.gather(chat.reply([long]), chat.reply([short]))
        finally:
            await chat.aclose()

    long, short = asyncio.run(ask())
    assert "20" in long.error and "16384" in long.error and [str(fault) for fault in long.faults] == ["refused"]
    assert short.error is None and short.usage.requests == 1


def test_what_is_no_chat_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "--agent", "hf", "--tasks", TASK, "--device", "cpu", "--out", str(tmp_path / "run")]
    assert run([*command, "--model", str(tmp_path)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("fk-gym: agent 'hf' cannot load")
    with pytest.raises(UserError, match="--model"):
        resolve_agent("hf")
    with pytest.raises(UserError, match="asks no server"):
        resolve_agent("hf", AgentOptions(llm="x", base_url="http://127.0.0.1"))
