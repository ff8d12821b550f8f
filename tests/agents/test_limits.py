"""`fk-gym eval` under limits: the real client against a real server that answers without a candidate."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, failure, plain
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_gym.agent import LLMFault, Usage
from fastkernels_gym.cli.app import run
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals import Account, Limits, Price, Prices, Rollout, RunConfig, RunFolder

TASK = "L1/silu_and_mul@tiny-llama"
PRICES = '[[price]]\nmodels = ["some-*"]\ninput = 1\ncached = 0.5\noutput = 2\nreasoning = 4\n'
CALL_DOLLARS = (60 * 1 + 40 * 0.5 + 15 * 2 + 5 * 4) / 1e6


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """Refuses its first request, answers the second with nothing, and all others."""
    refused = failure(429, "slow down", retry_after="0")
    with ChatServer() as running:
        running.answers = [refused, plain("", "some-llm-0806"), plain("Let me think.", "some-llm-0806")]
        yield running


@pytest.fixture
def command(server: ChatServer, tmp_path: Path) -> list[str]:
    (tmp_path / "prices.toml").write_text(PRICES)
    asked = [
        "--agent",
        "gpt",
        "--model",
        "some-llm",
        "--base-url",
        server.url,
        "--prices",
        str(tmp_path / "prices.toml"),
    ]
    extent = ["--tasks", TASK, "--samples", "2", "--turns", "3", "--device", "cpu", "--llm-concurrency", "1"]
    return ["eval", *asked, *extent, "--out", str(tmp_path / "run")]


@pytest.mark.parametrize(("option", "limit"), (("--max-tokens", "240"), ("--max-cost", str(2 * CALL_DOLLARS))))
def test_a_limit_ends_the_run_and_a_higher_one_continues_it(
    server: ChatServer, command: list[str], tmp_path: Path, option: str, limit: str, capsys: Any
) -> None:
    def summary() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
        return found

    # The first turn takes three requests, of which two have tokens: those of the empty reply count.
    assert run([*command, option, limit]) == 4
    first = summary()
    assert (first["ended_by"], first["turns"], len(server.requests)) == (option, 1, 3)
    assert first["faults"] == {"empty_reply": 1, "rate_limited": 1}
    shown = capsys.readouterr().out
    assert f"ended by {option}" in shown and "1 rate_limited" in shown
    # What was spent before counts.
    assert run([*command, option, limit, "--resume"]) == 4
    assert len(server.requests) == 3
    assert run([*command, option, "1000", "--resume"]) == 0
    last = summary()
    assert (last["ended_by"], last["turns"], len(server.requests)) == (None, 6, 8)
    account = last["account"]
    calls = 7
    assert (account["prompt_tokens"], account["cached_tokens"]) == (100 * calls, 40 * calls)
    assert (account["completion_tokens"], account["reasoning_tokens"]) == (20 * calls, 5 * calls)
    assert account["requests"] == 8 and account["dollars"] == pytest.approx(calls * CALL_DOLLARS)
    assert last["spent"]["dollars"] == pytest.approx(calls * CALL_DOLLARS)
    assert last["llms"] == {"some-llm-0806": 6}


def test_a_dry_run_asks_nothing(server: ChatServer, command: list[str], tmp_path: Path, capsys: Any) -> None:
    assert run([*command, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["calls"] == 6 and plan["usage"]["prompt_tokens"] > 6 * 500 and plan["dollars"] > 0
    (prompt,) = plan["prompts"]
    assert prompt["task"].startswith(TASK) and prompt["samples"] == [0, 1]
    assert run([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert all(message["content"] in shown for message in prompt["messages"]) and "planned: 6 calls" in shown
    assert not server.requests and not (tmp_path / "run").exists()


def test_turns_that_ran_again_and_earlier_sittings_count(tmp_path: Path) -> None:
    usage = Usage(100, 0, 20, 0, 1)
    lost = Rollout("k", TASK, 0, 0, "gpt", "some-llm", usage=usage, error="HTTP 500", faults=(LLMFault.SERVER_ERROR,))
    again = Rollout("k", TASK, 0, 0, "gpt", "some-llm", usage=usage, reply="Hm.", elapsed=100.0)
    (tmp_path / "rollouts.jsonl").write_bytes(lost.to_json() + again.to_json())
    prices, config = Prices((Price(("some-*",), 1.0, 2.0),)), RunConfig("gpt", (TASK,), "some-llm")

    def recount(limits: Limits) -> Account:
        account = Account("some-llm", limits, prices)
        RunFolder(tmp_path, config, resume=True, account=account).close()
        return account

    account = recount(Limits(seconds=100.0))
    assert not account.may_start() and account.ended_by == "--max-time"
    found = account.to_dict()
    assert found["account"]["prompt_tokens"] == 200 and found["account"]["dollars"] == pytest.approx(280e-6)
    assert found["faults"] == {"server_error": 1}
    assert recount(Limits(dollars=1.0, tokens=241, seconds=1e4)).may_start()


@pytest.mark.parametrize(
    ("options", "named"),
    (
        (["--max-cost", "1", "--model", "unheard-of"], "--prices"),
        (["--max-cost", "0"], "--max-cost is more than 0"),
        (["--max-time", "nan"], "--max-time is more than 0"),
        (["--rpm", "0"], "--rpm"),
        (["--llm-concurrency", "0"], "--llm-concurrency"),
        (["--prices", __file__], "[[price]]"),
        (["--prices", "nowhere.toml"], "nowhere.toml"),
        (["--dry-run", "--resume"], "--resume"),
    ),
)
def test_limits_that_make_no_sense_are_one_line(
    command: list[str], options: list[str], named: str, capsys: Any
) -> None:
    assert run([*command, *options]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_a_price_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("prices") / "prices.toml"
    written = json.dumps(value, allow_nan=True).replace("NaN", "nan").replace("Infinity", "inf")
    path.write_text(f'[[price]]\nmodels = ["a"]\ninput = {written}\noutput = 1\n')
    try:
        price = Prices.load(path).find("a")
    except UserError:
        return
    assert price is not None and price.dollars(Usage(10**6, 0, 0, 0, 1)) == value >= 0


def test_the_packaged_prices_tell_models_apart() -> None:
    prices = Prices.load()
    large, small = prices.find("gpt-4o"), prices.find("gpt-4o-mini-2024-07-18")
    assert large is not None and small is not None and large.input > small.input
    assert prices.find("unheard-of") is None
    # A server that reports more cached tokens than tokens makes nothing cheaper than cached.
    assert large.dollars(Usage(100, 10**9, -5, 7, 1)) == pytest.approx(100 * 1.25 / 1e6)


def test_own_templates_are_used_and_belong_to_the_run(
    server: ChatServer, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "system.j2").write_text("Answer in verse.")
    command += ["--samples", "1", "--turns", "1", "--temperature", "0.5", "--seed", "3"]
    assert run([*command, "--prompt-dir", str(own), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "--- system\nAnswer in verse.\n" in shown and "## Toolchains" in shown and not server.requests
    assert run([*command, "--prompt-dir", str(own)]) == 0
    asked = server.requests[-1]
    assert asked["messages"][0]["content"] == "Answer in verse.\n" and asked["temperature"] == 0.5
    assert {request["seed"] for request in server.requests} == {asked["seed"]} and 0 <= asked["seed"] < 1 << 31
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["facts"]["kind"] == "cpu" and (config["temperature"], config["seed"]) == (0.5, 3)

    capsys.readouterr()
    (own / "system.j2").write_text("Answer in prose.")
    for changed, said in (([], "prompts was"), (["--seed", "4"], "seed was 3"), (["--temperature", "3"], "0 to 2")):
        assert run([*command, "--prompt-dir", str(own), "--resume", *changed]) == 2
        line = capsys.readouterr().err.strip()
        assert said in line and line.count("\n") == 0
    (own / "system.j2").write_text("Answer as {{ whom }}.")
    assert run([*command, "--prompt-dir", str(own), "--dry-run"]) == 2
    assert capsys.readouterr().err == "fk-gym: --prompt-dir: template system.j2: no variable 'whom'; there are none\n"
