"""What an agent is told: what to fix after a fault, where the time goes after a success. No seed, no hidden shape."""

from __future__ import annotations

from fastkernels_gym.referee.timings import Timings
from fastkernels_gym.results import Verdict

_LONGEST_DETAIL = 5000
_ADVICE = {
    Verdict.POLICY_REJECT: "Send one Python module: at most 64 KiB of UTF-8 without null bytes.",
    Verdict.LOAD_ERROR: "The module does not import. Fix the error; import only what the rules allow.",
    Verdict.INTERFACE_MISMATCH: "Keep the reference's class name, constructor, forward signature and parameter names.",
    Verdict.COMPILE_ERROR: "A kernel does not compile; the compiler's message is below.",
    Verdict.COMPILE_TIMEOUT: "Building and warming up took too long: compile less, or autotune fewer configurations.",
    Verdict.RUNTIME_ERROR: "The candidate raised, exited or crashed while it ran.",
    Verdict.DEVICE_FAULT: "A kernel faulted on the device: check bounds, masks and alignment.",
    Verdict.OUT_OF_MEMORY: "The candidate ran out of memory, or used more than it may.",
    Verdict.TIMEOUT: "A call did not return in time: look for a loop or a deadlock.",
    Verdict.WRONG_SHAPE: "An output has another number, shape or layout than the reference's.",
    Verdict.WRONG_DTYPE: "An output has another dtype or device than the reference's.",
    Verdict.WRONG_VALUE: "An output is further from the exact result than the baseline's error allows.",
    Verdict.UNWRITTEN_OUTPUT: "Part of an output, the KV cache or a state between layers was never written, or is NaN.",
    Verdict.MUTATED_INPUT: "An argument was changed that the operator does not own.",
    Verdict.NONDETERMINISTIC: "The same input gave a right result once and a wrong one once: look for a race.",
    Verdict.PROTOCOL_TAMPER: "The process interfered with the evaluator.",
    Verdict.TIMING_INCONSISTENT: "The timings contradict each other; nothing above the baseline is paid.",
    Verdict.BEYOND_ROOFLINE: "Faster than the device can be; nothing above the baseline is paid.",
    Verdict.INFRA_ERROR: "The evaluator failed, not the candidate; nothing was learnt about it.",
}


def fault_feedback(verdict: Verdict, detail: str) -> str:
    """What a verdict means and how to mend it, then what was seen."""
    advice = _ADVICE[verdict]
    return f"{verdict}: {advice}\n{_plain(detail)}".rstrip()


def _plain(detail: str) -> str:
    """A candidate's words, bounded and without what a terminal, a page or a log would act on."""
    shown = detail[:_LONGEST_DETAIL] + (" ..." if len(detail) > _LONGEST_DETAIL else "")
    return "".join(c if c in "\n\t" or c.isprintable() else ascii(c)[1:-1] for c in shown)


def timing_feedback(timings: Timings) -> str:
    """The ladder, and the slowest cases against the baseline, in lines; first of all a doubt, where there is one."""
    lines = []
    ladder, e2e, doubt = timings.ladder, timings.e2e, timings.doubt
    for rung in ladder:
        lines.append(f"{rung.operator}: {rung.speedup:.3f}x [{rung.ci95[0]:.3f}, {rung.ci95[1]:.3f}]")
    if ladder:
        lines += [
            f"  {case.phase} {case.shapes} x{case.calls}: {case.candidate_us:.1f} us against {case.baseline_us:.1f} us"
            for case in ladder[0].cases
        ]
    if e2e is not None:
        lines.append(f"end to end: {e2e.speedup:.4f}x [{e2e.ci95[0]:.4f}, {e2e.ci95[1]:.4f}]")
        lines += [
            f"  {name} x{phase.n}: {phase.candidate_ms:.3f} ms against {phase.baseline_ms:.3f} ms"
            for name, phase in e2e.phases.items()
        ]
    if timings.unexplained:
        lines.append("The full model saved more: what half as much again as the operator's own saving explains counts.")
    if timings.discarded:
        lines.append(f"{timings.discarded} blocks were measured again: the device was slowed down.")
    if not timings.stable:
        lines.append("The measurement stayed noisy: at most 1.0 is paid for it.")
    head = "ok: correct." if doubt is None else fault_feedback(doubt.verdict, doubt.detail)
    return "\n".join([head, *lines])
