"""The engine computes what transformers computes, whatever the batch and however scarce the pages."""

import random

import pytest
import torch

from fastkernels_gym.engine import Engine, load_model

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3", "phi3", "mixtral", "qwen3_moe")


def prompts(*lengths: int, vocabulary: int = 150) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(vocabulary) for _ in range(length)] for length in lengths]


@pytest.fixture(scope="module")
def engine(llama) -> Engine:
    return load_model(llama.folder, device="cpu", weights="checkpoint")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoints_logits_and_greedy_tokens_are_transformers(family, request) -> None:
    saved = request.getfixturevalue(family)
    ours = load_model(saved.folder, device="cpu", weights="checkpoint")
    ragged = prompts(1, 17, 5, 40)
    for prompt, logits in zip(ragged, ours.logits(ragged), strict=True):
        expected = saved.logits(prompt)
        assert logits.shape == (len(prompt), 150) and logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert ours.generate(ragged, 20) == [saved.greedy(prompt, 20) for prompt in ragged]
    assert ours.blocks.num_free == ours.blocks.num_blocks


def test_a_batch_generates_what_its_prompts_generate_alone(engine) -> None:
    ragged = prompts(3, 31, 1, 16, 8)
    assert engine.generate(ragged, 12) == [engine.generate([prompt], 12)[0] for prompt in ragged]


@pytest.mark.parametrize(("num_blocks", "max_batch", "max_prefill"), [(9, 8, 8192), (12, 2, 8192), (40, 8, 5)])
def test_scarce_pages_rows_and_tokens_change_nothing(engine, num_blocks, max_batch, max_prefill) -> None:
    ragged = prompts(7, 12, 1, 9, 4)
    scarce = Engine(
        engine.model, num_blocks=num_blocks, block_size=4, max_batch=max_batch, max_prefill_tokens=max_prefill
    )
    assert scarce.generate(ragged, 24) == engine.generate(ragged, 24)
    for ours, expected in zip(scarce.logits(ragged), engine.logits(ragged), strict=True):
        torch.testing.assert_close(ours, expected)
    assert scarce.blocks.num_free == num_blocks


def test_requests_come_go_and_are_asked_for_logits_while_others_run(engine) -> None:
    ours = Engine(engine.model, num_blocks=20, block_size=4, max_prefill_tokens=6)
    first, late, doomed = prompts(7, 15, 4)
    expected = engine.generate([first, late], 12)
    assert not ours.busy and ours.step() == []
    a = ours.add(first, 12)
    assert ours.step() == [] and ours.busy and a.generated == []  # 6 of 7 tokens are read
    assert ours.step() == [a] and a.generated == expected[0][:1]
    b, c = ours.add(late, 12), ours.add(doomed, 12)
    while not b.generated:
        ours.step()
    ours.abort(c)
    ours.abort(c)
    (logits,) = ours.logits([late])
    torch.testing.assert_close(logits, engine.logits([late])[0])
    assert ours.generate([doomed], 3) == engine.generate([doomed], 3)
    while ours.busy:
        ours.step()
    assert (a.generated, b.generated) == tuple(expected) and a.finished and b.finished and c.finished
    assert c.generated == engine.generate([doomed], 12)[0][: len(c.generated)]
    assert ours.blocks.num_free == 20


def test_generation_ends_after_an_end_token_unless_told_otherwise(engine, monkeypatch) -> None:
    (prompt,) = prompts(6)
    (free,) = engine.generate([prompt], 10)
    end = free[4]
    monkeypatch.setattr(engine.config, "eos_token_id", [end, 149])
    assert engine.generate([prompt], 10) == [free[: free.index(end) + 1]]
    assert engine.generate([prompt], 10, ignore_eos=True) == [free]


def test_sampling_follows_the_temperature_and_the_seed(engine) -> None:
    (prompt,) = prompts(6)
    assert engine.generate([prompt], 8, temperature=1e-30) == engine.generate([prompt], 8)
    torch.manual_seed(5)
    drawn = engine.generate([prompt] * 4, 8, temperature=1.0)
    torch.manual_seed(5)
    assert engine.generate([prompt] * 4, 8, temperature=1.0) == drawn
    assert len({tuple(tokens) for tokens in drawn}) > 1


def test_each_prompt_has_its_temperature_and_its_draws(engine) -> None:
    first, second = prompts(6, 9)
    greedy, hot = engine.generate([first, second], 8, temperature=[0.0, 2.0], seed=7)
    assert greedy == engine.generate([first], 8)[0]
    assert hot == engine.generate([second], 8, temperature=2.0, seed=8)[0] != engine.generate([second], 8)[0]
    crowded = Engine(engine.model, num_blocks=12, block_size=4, max_prefill_tokens=5)
    assert crowded.generate([first, second], 8, temperature=[0.0, 2.0], seed=7) == [greedy, hot]
    with pytest.raises(ValueError, match="1 temperatures are given for 2 prompts"):
        engine.generate([first, second], temperature=[1.0])


def test_sampled_frequencies_are_the_softmax(engine) -> None:
    (prompt,), temperature, draws = prompts(6), 2.0, 1500
    wanted = (engine.logits([prompt])[0][-1] / temperature).softmax(-1)
    torch.manual_seed(6)
    tokens = torch.tensor(engine.generate([prompt] * draws, 1, temperature=temperature)).flatten()
    frequencies = tokens.bincount(minlength=150) / draws
    deviation = (wanted * (1 - wanted) / draws).sqrt()
    assert ((frequencies - wanted).abs() <= 5 * deviation + 1 / draws).all()


def test_what_does_not_fit_or_is_no_prompt_is_refused(engine) -> None:
    for wrong, message in [([[]], "prompt 0 is empty"), ([[1], [150]], "prompt 1 holds"), ([[-1]], "prompt 0 holds")]:
        with pytest.raises(ValueError, match=message):
            engine.generate(wrong)
        with pytest.raises(ValueError, match=message):
            engine.logits(wrong)
    with pytest.raises(ValueError, match="comes to 129 tokens; there is room for 128"):
        engine.generate(prompts(126), 4)
    assert len(engine.generate(prompts(126), 3)[0]) == 3
    for arguments in ({"max_new_tokens": -1}, {"temperature": -0.1}, {"temperature": float("nan")}):
        with pytest.raises(ValueError, match="must be finite"):
            engine.generate([[1]], **arguments)
    for bound in ("num_blocks", "block_size", "max_batch", "max_prefill_tokens"):
        with pytest.raises(ValueError, match="at least 1"):
            Engine(engine.model, **{bound: 0})
    assert engine.add([1], 0).finished and not engine.busy
    assert engine.generate([]) == engine.logits([]) == [] and engine.generate([[1], [2]], 0) == [[], []]


def test_pages_come_back_after_an_error(engine) -> None:
    def fail(*_) -> None:
        raise RuntimeError("device lost")

    hook = engine.model.model.norm.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="device lost"):
        engine.generate([[1, 2]])
    hook.remove()
    assert engine.blocks.num_free == engine.blocks.num_blocks


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpus_graphs_generate_what_transformers_generates(family, request) -> None:
    saved = request.getfixturevalue(family)
    ours = load_model(saved.folder, device="cuda", weights="checkpoint")
    ragged = prompts(1, 17, 5, 40, 3)
    for prompt, logits in zip(ragged, ours.logits(ragged), strict=True):
        torch.testing.assert_close(logits.cpu(), saved.logits(prompt), atol=1e-3, rtol=1e-3)
    expected = [saved.greedy(prompt, 60) for prompt in ragged]
    assert ours.generate(ragged, 60) == expected
    scarce = Engine(ours.model, num_blocks=28, block_size=4, max_prefill_tokens=24)
    assert scarce.generate(ragged, 60) == expected
    assert scarce.blocks.num_free == 28
