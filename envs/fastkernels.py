"""The Gymnasium environment: an action is a kernel's source, the reward is what the kernel is worth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args
from uuid import uuid4

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete

from fastkernels_gym.candidate import parse_reply
from fastkernels_gym.catalog import load_task
from fastkernels_gym.device import device_facts
from fastkernels_gym.envs.spaces import Source
from fastkernels_gym.envs.tasks import matching_tasks, training_tasks
from fastkernels_gym.errors import UserError
from fastkernels_gym.executor import Evaluator
from fastkernels_gym.executor.evaluator import Device
from fastkernels_gym.prompts import Prompts
from fastkernels_gym.request import EvalRequest
from fastkernels_gym.results import Evaluation, Measure, RewardKind, Verdict
from fastkernels_gym.reward import reward as reward_of

Payout = Literal["best", "each"]
DONE = "DONE"
_TEXT_BYTES = 1 << 20
_LARGEST_REWARD = 1e6


@dataclass(slots=True)
class _Episode:
    """The task at hand and how far the agent has come with it."""

    task: str
    prompt: str
    reference: str
    shapes: str
    turn: int = 0
    best: float | None = None
    feedback: str = ""
    over: bool = False


class FastKernelsEnv(gymnasium.Env[dict[str, Any], str]):
    """Pays an agent for a faster kernel of one operator of a real model.

    An action is a reply: a Python module that defines the operator's class, or text with such a module in its last
    fence of Python. Every reply is one turn. Its reward r is that of `fastkernels_gym.reward`. The text `DONE` ends the
    episode and pays 0.

    An observation is a dict of texts `task`, `prompt`, `reference`, `shapes` (JSON) and `feedback` (on the last turn),
    of `turn` (turns taken) and of `best_reward` (float32, shape ()). `info` has the same keys on every call; a speedup
    or bound that was not measured is 0.0, and `verdict` and `evaluation` are empty where nothing was judged.

    Candidates run in the evaluator's sandboxed processes; this process never touches a GPU.

    Args:
        tasks: task ids or fnmatch patterns over them; None draws from the training split of the default model, which is
            llama-3.1-8b where the evaluator has a GPU and tiny-llama where it has not.
        level: keeps only operators of this level, 1 to 4.
        reward: the reward's kind; None takes `e2e` where it is measured, else `op`.
        max_turns: turns an episode at the most.
        payout: `best` pays what a turn adds to the best reward so far, so that an episode's return is its best reward:
            r on the first turn, then max(0, r - best); `each` pays r.
        measure: `op`, `ladder` or `e2e`.
        budget_s: seconds of timing an evaluation at the most.
        device: `auto`, `cpu` or `cuda`.
        failure: the reward of a turn that gives no correct candidate.
        show_baseline: adds the baseline's implementation to `reference`.
        render_mode: `ansi`, `human` or None.
        evaluator: one to share with others; it is then not closed here, and `device` is its own. None makes one when
            first needed.

    Raises:
        UserError: on arguments that do not exist or do not fit together.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 1}

    def __init__(
        self,
        *,
        tasks: str | Sequence[str] | None = None,
        level: int | None = None,
        reward: RewardKind | None = None,
        max_turns: int = 1,
        payout: Payout = "best",
        measure: Measure = "e2e",
        budget_s: float = 10.0,
        device: Device = "auto",
        failure: float = 0.0,
        show_baseline: bool = False,
        render_mode: str | None = None,
        evaluator: Evaluator | None = None,
    ) -> None:
        if level not in (None, 1, 2, 3, 4):
            raise UserError(f"no level {level!r}: there are 1, 2, 3, 4")
        if max_turns < 1:
            raise UserError(f"an episode has at least one turn, not {max_turns}")
        if payout not in get_args(Payout):
            raise UserError(f"no payout {payout!r}: there are {', '.join(get_args(Payout))}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise UserError(f"no render mode {render_mode!r}: there are {', '.join(self.metadata['render_modes'])}")
        self._request = EvalRequest("", "", measure, reward, budget_s)
        self._patterns = [tasks] if isinstance(tasks, str) else tasks
        self._level = level
        self._max_turns = int(max_turns)
        self._payout = payout
        self._device = device
        self._failure = float(failure)
        self._show_baseline = show_baseline
        self._prompts = Prompts()
        self._shared = evaluator
        self._own: Evaluator | None = None
        self._tasks: list[str] | None = None
        self._episode: _Episode | None = None
        self._begun: tuple[str, Future[Evaluation]] | None = None
        self.render_mode = render_mode
        self.action_space = Source(_TEXT_BYTES)
        self.observation_space = Dict(
            task=Source(_TEXT_BYTES),
            prompt=Source(_TEXT_BYTES),
            reference=Source(_TEXT_BYTES),
            shapes=Source(_TEXT_BYTES),
            feedback=Source(_TEXT_BYTES),
            turn=Discrete(self._max_turns + 1),
            best_reward=Box(-_LARGEST_REWARD, _LARGEST_REWARD, (), np.float32),
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begins an episode on a task drawn uniformly, or on `options["task"]`.

        Raises:
            UnknownTask: if no task matches, or there is no such task.
        """
        super().reset(seed=seed)
        self._begun = None
        chosen = (options or {}).get("task")
        self._episode = self._open(self._draw() if chosen is None else str(chosen))
        self._render_for_human()
        return self._observation(), self._info(None)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Judges one reply.

        Raises:
            ResetNeeded: before the first reset, and after an episode's end.
            TypeError: if the action is no string.
        """
        self.begin(action)
        episode, begun = self._running(), self._begun
        self._begun = None
        if action.strip() == DONE:
            episode.over = True
            episode.feedback = ""
            self._render_for_human()
            return self._observation(), 0.0, True, False, self._info(None)
        evaluation = self._result(begun[1]) if begun is not None else None
        lost = evaluation is not None and evaluation.verdict is Verdict.INFRA_ERROR
        earned = 0.0 if lost else self._settle(episode, evaluation)
        episode.turn += 1
        terminated = episode.turn == self._max_turns and not lost
        episode.feedback = self._prompts.feedback(evaluation, turns_left=self._max_turns - episode.turn or None)
        episode.over = terminated or lost
        self._render_for_human()
        return self._observation(), earned, terminated, lost, self._info(evaluation)

    def begin(self, action: str) -> None:
        """Sends a reply off to be judged; the `step` with the same reply, which must follow, then only waits."""
        episode = self._running()
        if not isinstance(action, str):
            raise TypeError(f"an action is a string, not {type(action).__name__}")
        if self._begun is not None and self._begun[0] == action:
            return
        self._begun = None
        source = None if action.strip() == DONE else parse_reply(action)
        if source is not None:
            # Text that is not UTF-8 is the candidate's fault, and the evaluator's to say.
            request = replace(
                self._request, task=episode.task, source=source.encode(errors="surrogatepass"), request_id=uuid4().hex
            )
            self._begun = action, self._evaluator().submit(request)

    def render(self) -> str | None:
        """The state as text (`ansi`), or the same on standard output (`human`)."""
        if self.render_mode is None:
            return None
        text = self._describe()
        if self.render_mode == "ansi":
            return text
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        return None

    def close(self) -> None:
        """Ends the evaluator's processes, unless the evaluator was given."""
        self._episode = None
        if self._own is not None:
            self._own.close()
            self._own = None

    def _evaluator(self) -> Evaluator:
        if self._shared is not None:
            return self._shared
        if self._own is None:
            self._own = Evaluator(device=self._device)
        return self._own

    def _result(self, future: Future[Evaluation]) -> Evaluation:
        return future.result()

    def _draw(self) -> str:
        if self._tasks is None:
            if self._patterns is None:
                self._tasks = training_tasks(self._evaluator().device, self._level)
            else:
                self._tasks = matching_tasks(self._patterns, self._level)
        return self._tasks[int(self.np_random.integers(len(self._tasks)))]

    def _open(self, task_id: str) -> _Episode:
        task = load_task(task_id)
        seen = task.observation(show_baseline=self._show_baseline)
        device = device_facts(self._evaluator().device)
        prompt = f"{self._prompts.system()}\n{self._prompts.task(task, seen, device=device)}"
        return _Episode(task.id, prompt, seen.reference, seen.shapes)

    def _running(self) -> _Episode:
        if self._episode is None or self._episode.over:
            raise ResetNeeded("call reset() before step()")
        return self._episode

    def _settle(self, episode: _Episode, evaluation: Evaluation | None) -> float:
        """Books a turn's reward and says what it pays."""
        if evaluation is None:
            earned = self._failure
        else:
            earned = reward_of(evaluation, self._request.reward_kind, failure=self._failure)
        before = episode.best
        episode.best = earned if before is None else max(before, earned)
        return earned if self._payout == "each" or before is None else episode.best - before

    def _observation(self) -> dict[str, Any]:
        episode = self._episode
        assert episode is not None
        best = min(max(episode.best or 0.0, -_LARGEST_REWARD), _LARGEST_REWARD)
        return {
            "task": episode.task,
            "prompt": episode.prompt,
            "reference": episode.reference,
            "shapes": episode.shapes,
            "feedback": episode.feedback,
            "turn": episode.turn,
            "best_reward": np.array(best, np.float32),
        }

    def _info(self, evaluation: Evaluation | None) -> dict[str, Any]:
        op = evaluation.op if evaluation else None
        e2e = evaluation.e2e if evaluation else None
        paid = op if self._request.reward_kind == "op" else e2e
        return {
            "verdict": str(evaluation.verdict) if evaluation else "",
            "correct": bool(evaluation and evaluation.correct),
            "stable": bool(evaluation and evaluation.stable),
            "op_speedup": op.speedup if op else 0.0,
            "e2e_speedup": e2e.speedup if e2e else 0.0,
            "ci_low": paid.ci95[0] if paid else 0.0,
            "ci_high": paid.ci95[1] if paid else 0.0,
            "seconds": evaluation.seconds.total if evaluation else 0.0,
            "evaluation": evaluation.to_json() if evaluation else "",
        }

    def _describe(self) -> str:
        episode = self._episode
        if episode is None:
            return "FastKernels: no episode"
        best = "none" if episode.best is None else f"{episode.best:.3f}"
        line = f"{episode.task}  turn {episode.turn}/{self._max_turns}  best reward {best}"
        return f"{line}\n{episode.feedback}" if episode.feedback else line

    def _render_for_human(self) -> None:
        if self.render_mode == "human":
            self.render()
