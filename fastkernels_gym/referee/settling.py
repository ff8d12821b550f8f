"""Windows of the full model that do not count: a player's first after the other's is slow.

They run on tokens of their own, so that nothing can be remembered of them.
"""

from __future__ import annotations

from fastkernels_gym.referee.clock import Burst
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.scene import Given

# Of a decode step, which is short; beside a prefill of some ten times its length a switch does not show, and such a
# window would cost as much as it is long. On a CPU, where targets are 5 %, it would only cost time.
SETTLES = {"cpu": False, "cuda": True}


def settle(program: Program, run: Burst) -> None:
    """Runs one window of a player that does not count, where that is worth its time; the program is left as it was."""
    if program.calls[0].path or not program.scene.graph or not SETTLES[program.region.device.type]:
        return
    ids = next(a.tensor for a in program.calls[0].arguments if isinstance(a, Given))
    kept, kept_ids = program.region.mirror.clone(), ids.clone()
    program.refresh()
    run(1)
    program.region.mirror.copy_(kept)
    ids.copy_(kept_ids)
