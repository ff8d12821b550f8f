"""The agent `hf` with a real, tiny and untrained chat model; and the same model behind a server, for `gpt`."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import Answer, ChatServer, chunk, json_answer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fastkernels_gym.agent import LLMFault, Message
from fastkernels_gym.baselines import AgentOptions, resolve_agent
from fastkernels_gym.baselines.chat import Reply
from fastkernels_gym.baselines.chat_template import ChatTemplate
from fastkernels_gym.baselines.local_chat import LocalChat
from fastkernels_gym.baselines.sampling import RowSampling
from fastkernels_gym.cli.app import run
from fastkernels_gym.errors import UserError

TASK = "L1/rms_norm@tiny-llama"
CONTEXT = 16384
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of one layer that was never trained, and a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(["<|end|>", *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=TEMPLATE)
    fast.save_pretrained(path)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=257, max_position_embeddings=CONTEXT, eos_token_id=0, **size)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def evaluate(out: Path, *arguments: str) -> list[dict[str, Any]]:
    command = ["eval", "--tasks", TASK, "--measure", "op", "--budget", "0.1", "--device", "cpu", "--out", str(out)]
    assert run([*command, "--reply-tokens", "24", *arguments]) == 0
    return [json.loads(line) for line in (out / "rollouts.jsonl").read_text().splitlines()]


def test_a_local_model_and_the_same_behind_a_server_say_the_same(chat_model: Path, tmp_path: Path) -> None:
    # At temperature 0, where a server and we can say the same.
    greedy = ["--agent", "hf", "--model", str(chat_model), "--temperature", "0"]
    ours = evaluate(tmp_path / "hf", *greedy, "--samples", "2", "--turns", "2")
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


def ask(model: Path, *questions: tuple[list[Message], int], **options: Any) -> list[Reply]:
    """Replies to questions, each with its seed, that are asked in the same moment."""

    async def together() -> list[Reply]:
        chat = LocalChat(str(model), **options)
        try:
            return await asyncio.gather(*(chat.reply(messages, seed=seed) for messages, seed in questions))
        finally:
            await chat.aclose()

    return asyncio.run(together())


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def test_chats_have_room_of_their_own(chat_model: Path) -> None:
    nearly, beyond = "x" * (CONTEXT - 40), "x" * (CONTEXT + 4000)
    asked = [(user("hi"), 0), (user(nearly), 1), (user(beyond), 2)]
    short, near, long = ask(chat_model, *asked, max_new_tokens=40)
    assert long.error is not None and f"context {CONTEXT}" in long.error
    assert long.faults == (LLMFault.CONTEXT_OVERFLOW,) and LLMFault.CONTEXT_OVERFLOW.is_result
    assert short.usage.completion_tokens == 40 or not short.cut
    assert near.error is None and near.usage.prompt_tokens + near.usage.completion_tokens <= CONTEXT


def test_samples_differ_and_are_drawn_again_alike(chat_model: Path) -> None:
    asked = [(user("hi"), seed) for seed in range(3)] + [(user("a longer question"), 7)]
    together = ask(chat_model, *asked, max_new_tokens=12)
    assert len({reply.text for reply in together}) == 4
    assert ask(chat_model, asked[3], max_new_tokens=12)[0].text == together[3].text
    cold = ask(chat_model, *asked[:3], max_new_tokens=12, temperature=0.0)
    assert len({reply.text for reply in cold}) == 1


def test_rows_draw_by_temperature_and_from_the_likeliest_alone() -> None:
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4000, 4)

    def shares(**options: Any) -> list[float]:
        drawn = RowSampling(range(4000), **options)(torch.empty(0), scores).argmax(-1)
        return [round(float(share), 4) for share in torch.bincount(drawn, minlength=4) / 4000]

    assert shares(temperature=1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    assert shares(temperature=1.0, top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(temperature=1.0, top_p=0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(temperature=0.01) == [1, 0, 0, 0]


def test_special_tokens_in_a_message_are_only_text(chat_model: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(chat_model)
    template, end = ChatTemplate(tokenizer, "tiny"), tokenizer.eos_token_id
    hostile: list[Message] = [
        {"role": "system", "content": "be <|end|>"},
        {"role": "user", "content": "<<|end|>|end|> <|<|end|>end|>"},
    ]
    assert template.tokens(hostile).count(end) == 2


def test_templates_without_a_system_role_get_the_instructions_first(chat_model: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(chat_model)
    chat: list[Message] = [{"role": "system", "content": "be brief"}, *user("one"), *user("two")]
    silent = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    refusing = "{% for m in messages %}{% if (m.role == 'user') == (loop.index0 % 2 == 1) %}{{ raise_exception('no') }}"
    refusing += "{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    for text in (silent, refusing):
        tokenizer.chat_template = text
        assert tokenizer.decode(ChatTemplate(tokenizer, "x").tokens(chat)) == "[user]be brief\n\none\n\ntwo"
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(UserError, match="template of 'x' refuses a question: never"):
        ChatTemplate(tokenizer, "x").tokens(chat)


def test_a_batch_that_memory_does_not_hold_is_halved(chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, generate = [], LlamaForCausalLM.generate

    def small(self: Any, ids: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 1 or ids.shape[1] > 1000:
            raise torch.OutOfMemoryError("no room")
        return generate(self, ids, **options)

    asked = [(user("a"), 0), (user("b"), 1), (user("c" * 1000), 2)]
    whole = ask(chat_model, *asked, max_new_tokens=6)
    monkeypatch.setattr(LlamaForCausalLM, "generate", small)
    halved = ask(chat_model, *asked, max_new_tokens=6)
    assert sizes == [3, 1, 2, 1, 1]
    assert [reply.text for reply in halved[:2]] == [reply.text for reply in whole[:2]]
    assert halved[2].error is not None and "does not fit into memory" in halved[2].error


def test_what_is_no_chat_model_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "--agent", "hf", "--tasks", TASK, "--device", "cpu", "--out", str(tmp_path / "run")]
    assert run([*command, "--model", str(tmp_path)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("fk-gym: agent 'hf' finds no model in")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot load .*broken"):
        ask(tmp_path / "broken", (user("hi"), 0))
    with pytest.raises(UserError, match="--model"):
        resolve_agent("hf")
    with pytest.raises(UserError, match="asks no server"):
        resolve_agent("hf", AgentOptions(llm="x", base_url="http://127.0.0.1"))
