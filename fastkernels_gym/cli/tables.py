"""How `fk-gym` shows things to a person."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fastkernels_gym.catalog import Rung, Task
    from fastkernels_gym.cli.health import Health
    from fastkernels_gym.evals.plan import Plan
    from fastkernels_gym.executor.selftest import SelfTest
    from fastkernels_gym.results import EndToEnd, Estimate, Evaluation

_PIPED_WIDTH = 160


def stdout() -> Console:
    """A console that leaves wide tables whole where no terminal limits them."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False, markup=False)


def print_json(document: object) -> None:
    """A document as JSON on standard output."""
    print(json.dumps(document, indent=2, allow_nan=False))


def print_plan(plan: Plan) -> None:
    """Every prompt as the LLM would get it, then what they come to."""
    from fastkernels_gym.evals.plan import FEEDBACK_TOKENS, REPLY_TOKENS

    for prompt in plan.prompts:
        samples = f"{len(prompt.samples)} samples" if len(prompt.samples) > 1 else f"sample {prompt.samples[0]}"
        print(f"=== {prompt.task}, {samples}, first turn, at most about {prompt.tokens:,} tokens")
        for message in prompt.messages:
            print(f"--- {message['role']}\n{message['content']}")
    usage = plan.usage
    cost = "" if plan.dollars is None else f", ${plan.dollars:.2f}{plan.caveat}"
    print(f"planned: {plan.calls:,} calls, retries apart")
    if plan.calls:
        print(f"at most about {usage.prompt_tokens:,} prompt and {usage.completion_tokens:,} completion tokens{cost}")
        print(f"with {REPLY_TOKENS:,} tokens a reply and {FEEDBACK_TOKENS:,} a feedback, reasoning included")


def task_row(task: Task) -> dict[str, Any]:
    """A task as JSON-able data."""
    return {
        "task": task.id,
        "operator": task.operator.id,
        "model": _column(task),
        "level": task.level,
        "cases": len(task.cases),
    }


def task_matrix(tasks: Sequence[Task]) -> Table:
    """Operators down, models across, distinct calls in the cells."""
    models = list(dict.fromkeys(_column(task) for task in tasks))
    operators = sorted({task.operator.id: task.level for task in tasks}.items(), key=lambda item: item[1])
    cells = {(task.operator.id, _column(task)): str(len(task.cases)) for task in tasks}
    table = Table(title=f"{len(tasks)} tasks: distinct calls of each operator in each model", title_justify="left")
    table.add_column("operator", no_wrap=True)
    for model in models:
        table.add_column(model, justify="right", overflow="fold")
    for operator, _ in operators:
        table.add_row(operator, *(cells.get((operator, model), "") for model in models))
    return table


def _column(task: Task) -> str:
    """What a task is about, its operator apart: the model, and where given, sharding, workload and phase."""
    return task.id.partition("@")[2]


def ladder_table(task: Task, ladder: Sequence[Rung]) -> Table:
    """Users of a task's operator, the model on top."""
    table = Table(title=f"What uses {task.operator.id} in {task.model.name}", title_justify="left")
    table.add_column("level", justify="right")
    table.add_column("operator", no_wrap=True)
    for phase in task.workload.phases:
        table.add_column(f"{phase.name}: calls a pass", justify="right")
        table.add_column("share", justify="right")
    for rung in reversed(ladder):
        cells: list[str] = []
        for phase in task.workload.phases:
            cells += [str(rung.calls[phase.name]), f"{rung.share[phase.name]:.0%}"]
        table.add_row(f"L{rung.operator.level}", rung.operator.id, *cells)
    own: list[str] = []
    for phase in task.workload.phases:
        count = sum(case.count for case in task.cases if case.phase == phase.name)
        own += [str(count), "100%" if count else "0%"]
    table.add_row(f"L{task.level}", f"{task.operator.id} (replaced)", *own)
    return table


def print_observation(console: Console, task: str, reference: str, shapes: Sequence[Mapping[str, Any]]) -> None:
    """The reference's source and the calls, as an agent sees them."""
    console.print(Text(task, style="bold"))
    if console.is_terminal:
        console.print(Syntax(reference, "python", background_color="default"))
    else:
        print(reference)
    table = Table(title="Calls", title_justify="left")
    for name in ("phase", "passes", "calls a pass", "arguments"):
        table.add_column(name, justify="right" if name in ("passes", "calls a pass") else "left", overflow="fold")
    for case in shapes:
        arguments = ", ".join(_argument(arg) for arg in case["args"])
        table.add_row(case["phase"], str(case["n"]), str(case["count"]), Text(arguments))
    console.print(table)


def _argument(arg: Mapping[str, Any]) -> str:
    if "shape" in arg:
        return f"{arg['name']}: {arg['dtype']}{list(arg['shape'])}"
    return f"{arg['name']}={arg['value']!r}"


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """A verdict, what it rests on and what it pays."""
    good = evaluation.verdict == "ok"
    console.print(
        Text.assemble((str(evaluation.verdict), "bold green" if good else "bold red"), f"  {evaluation.task}")
    )
    if evaluation.replaces:
        console.print(Text(f"replaces {', '.join(evaluation.replaces)}"))
    found = evaluation.correctness
    if found is not None:
        console.print(
            Text(
                f"correctness: {found.rounds} rounds, error against the baseline's own: "
                f"rms x{found.rms_error_ratio:.2f}, max x{found.max_error_ratio:.2f} (worst: {found.worst})"
            )
        )
    if evaluation.ladder or evaluation.e2e:
        console.print(_timings(evaluation))
    unstable = "" if evaluation.stable else " (unstable measurement: paid at most what the baseline earns)"
    console.print(Text(f"reward ({evaluation.reward_kind}): {evaluation.reward:.4f}{unstable}", style="bold"))
    if evaluation.ladder or evaluation.e2e:
        least = f"{1 + evaluation.dead_band:.3f}"
        proven = f"proven faster: the whole interval lies above {least}"
        console.print(
            Text(proven if evaluation.paid else f"not proven faster: a stable interval must lie above {least}")
        )
    for warning in evaluation.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    if evaluation.feedback:
        console.print(Text(evaluation.feedback))
    layers = ", ".join(evaluation.sandbox) or "none"
    console.print(Text(f"{evaluation.device}; sandbox: {layers}; {evaluation.seconds.total:.1f} s", style="dim"))


def _timings(evaluation: Evaluation) -> Table:
    table = Table()
    table.add_column("measured", no_wrap=True)
    for name in ("speedup", "95 % interval", "baseline", "candidate"):
        table.add_column(name, justify="right", no_wrap=True)
    for rung in evaluation.ladder:
        times = (f"{rung.baseline_us:,.1f} us", f"{rung.candidate_us:,.1f} us")
        table.add_row(rung.operator, *_ratio(rung), *times)
    if evaluation.e2e is not None:
        e2e = evaluation.e2e
        for name, phase in e2e.phases.items():
            times = (f"{phase.baseline_ms:,.3f} ms", f"{phase.candidate_ms:,.3f} ms")
            table.add_row(f"  {name} pass", f"{phase.baseline_ms / phase.candidate_ms:.3f}", "", *times, style="dim")
        times = (f"{e2e.baseline_ms:,.2f} ms", f"{e2e.candidate_ms:,.2f} ms")
        table.add_row(f"full model{_depth(e2e)}", *_ratio(e2e), *times, style="bold")
    return table


def _ratio(estimate: Estimate) -> tuple[str, str]:
    low, high = estimate.ci95
    return f"{estimate.speedup:.3f}", f"{low:.3f} to {high:.3f}"


def _depth(e2e: EndToEnd) -> str:
    run, full = e2e.depth
    return "" if run == full else f" (from {run} of {full} layers)"


def print_health(console: Console, health: Health) -> None:
    """Libraries, GPUs, sandbox."""
    libraries = Table(title="Libraries", title_justify="left")
    for name in ("library", "version", "note"):
        libraries.add_column(name)
    libraries.add_row("python", health.python)
    for library in health.libraries:
        libraries.add_row(library.name, library.version or "-", library.note)
    console.print(libraries)
    console.print(f"CUDA of torch: {health.cuda or 'none (CPU build)'}; GPUs: {', '.join(health.gpus) or 'none'}")
    if health.nvml:
        console.print(health.nvml)
    console.print(_clock_table(health))
    sandbox = Table(title="Sandbox", title_justify="left")
    for name in ("layer", "present", "reason", "fix"):
        sandbox.add_column(name, overflow="fold")
    for layer in health.layers:
        style = "green" if layer.present else "red" if layer.required else "yellow"
        present = Text("yes" if layer.present else "no" if layer.required else "no (optional)", style=style)
        sandbox.add_row(layer.name, present, Text(layer.reason), Text(layer.fix))
    console.print(sandbox)
    console.print(
        "candidates run sandboxed" if health.sandboxed else "candidates do not run: the sandbox is incomplete"
    )


def _clock_table(health: Health) -> Table:
    """What equal kernels may differ by on each device, and how that is known."""
    table = Table(title="Clock: what equal kernels may differ by", title_justify="left")
    table.add_column("device", overflow="fold")
    table.add_column("timing", no_wrap=True)
    for name in ("spread of players", "dead band"):
        table.add_column(name, justify="right")
    table.add_column("known by")
    for row in health.clock:
        known = "defaults: fk-gym selftest would measure it"
        if row.sd is not None:
            known = f"self-test of {row.runs} runs, sd {_percent(row.sd)}, {row.age_days} days old"
        table.add_row(row.device, row.kind, _percent(row.spread), _percent(row.dead_band), known)
    return table


def print_selftest(console: Console, test: SelfTest) -> None:
    """What the A/A runs of each kind gave."""
    from fastkernels_gym.referee.calibration import FEWEST_RUNS

    title = f"The baseline against itself on {test.identity.name}, {test.budget_s:g} s of timing a run at the most"
    table = Table(title=title, title_justify="left")
    table.add_column("timing", no_wrap=True)
    columns = ("runs", "sd", "95 % intervals that hold 1.0", "without the spread", "spread, at most", "dead band")
    for name in columns:
        table.add_column(name, justify="right")
    for kind, found in test.figures.items():
        held, alone = f"{found.covered} of {found.runs}", f"{found.covered_alone} of {found.runs}"
        figures = (_percent(found.sd), held, alone, _percent(found.spread), _percent(found.dead_band))
        table.add_row(kind.value, str(found.runs), *figures)
    console.print(table)
    failed = sum(run.sample is None for run in test.runs)
    if failed:
        console.print(f"not judged ok, and left out: {failed}")
    few = [kind.value for kind, found in test.figures.items() if found.runs < FEWEST_RUNS]
    if few:
        console.print(f"fewer than {FEWEST_RUNS} runs change nothing: {', '.join(few)}")
    if test.end is not None:
        state = test.end
        slowed = f"; slowed down: {', '.join(state.slowed)}" if state.slowed else ""
        clocks = f"{state.sm_mhz} MHz, memory {state.memory_mhz} MHz"
        console.print(f"at the end: {clocks}, {state.temperature_c} C, {state.power_w} W{slowed}")


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
