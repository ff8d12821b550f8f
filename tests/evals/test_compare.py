import json
from pathlib import Path
from typing import Any

import pytest

from fastkernels_gym.cli.app import run as fk_gym
from fastkernels_gym.errors import UserError
from fastkernels_gym.evals.archive import read_run
from fastkernels_gym.evals.compare import compare_runs


@pytest.fixture(scope="module")
def runs(scripted: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weak run, a strong one of fewer tasks, and a folder that is none."""
    path: Path = tmp_path_factory.mktemp("runs")
    tasks = scripted.population().tasks
    scripted.population(seed=1, agent="weak").write(path / "weak")
    scripted.population(seed=2, agent="str\x1b[31mong", skill=0.5, tasks=tasks[:6], samples=3).write(path / "strong")
    (path / "broken").mkdir()
    (path / "broken" / "config.json").write_text("{}")
    return path


def test_comparison_is_over_common_tasks_and_paired(runs: Path) -> None:
    weak, strong = read_run(runs / "weak"), read_run(runs / "strong")
    (found,) = compare_runs([weak, strong])
    assert (found.first, found.second, found.tasks) == ("weak", "strong", 6)
    assert found.settings == ("samples: 4, 3",)
    rows = {row.metric: row for row in found.differences}
    speedup = rows["operator's speedup, failures as 1x"]
    assert speedup.change.value == pytest.approx(speedup.second.value / speedup.first.value)
    assert speedup.significant and speedup.change.value > 1
    assert rows["correct"].change.value == pytest.approx(rows["correct"].second.value - rows["correct"].first.value)
    assert {"fast_1", "fast_1.01 end to end"} <= rows.keys()


def test_run_does_not_differ_from_itself(runs: Path) -> None:
    (found,) = compare_runs([read_run(runs / "weak")] * 2)
    assert not any(row.significant for row in found.differences)
    assert all(row.change.ci95 == ((1.0, 1.0) if row.ratio else (0.0, 0.0)) for row in found.differences)


def test_pairs_are_told_apart_where_single_runs_are_not(scripted: Any, runs: Path) -> None:
    (found,) = compare_runs([read_run(runs / "weak"), read_run(runs / "strong")])
    for row in found.differences:
        if row.metric.startswith("operator"):
            assert row.first.ci95 and row.second.ci95 and row.change.ci95
            assert row.change.ci95[1] / row.change.ci95[0] < (
                row.first.ci95[1] / row.first.ci95[0] * row.second.ci95[1] / row.second.ci95[0]
            )


def test_what_cannot_be_compared_is_refused(scripted: Any, runs: Path, tmp_path: Path) -> None:
    other = scripted.population(tasks=("L1/embedding@tiny-llama",)).write(tmp_path / "other")
    with pytest.raises(UserError, match="no task in common"):
        compare_runs([read_run(runs / "weak"), read_run(other)])
    with pytest.raises(UserError, match="two runs"):
        compare_runs([read_run(other)])


def test_commands_print_tables_and_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fk_gym(["compare", str(runs / "weak"), str(runs / "strong")]) == 0
    out = capsys.readouterr().out
    assert "6 common tasks" in out and "samples: 4, 3" in out and " *" in out

    assert fk_gym(["leaderboard", str(runs)]) == 0
    seen = capsys.readouterr()
    assert seen.err.count("\n") == 1 and "broken" in seen.err
    assert seen.out.index("strong") < seen.out.index("weak") and "\x1b" not in seen.out

    assert fk_gym(["leaderboard", str(runs), "--json"]) == 0
    ranked = json.loads(capsys.readouterr().out)["runs"]
    assert [Path(run["run"]).name for run in ranked] == ["strong", "weak"]
    assert fk_gym(["compare", str(runs / "weak"), str(runs / "strong"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["tasks"] == 6
