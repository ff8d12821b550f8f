"""What goes before a window of the full model that counts: it shall find player and device as any other does."""

from __future__ import annotations

import time

from fastkernels_gym.referee.clock import Burst
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.scene import Given

# On a CPU, where targets are 5 %, it would only cost time.
SETTLES = {"cpu": False, "cuda": True}
# A prefill draws all the power that the device may: one after the other they run into its limit, each as far as the
# last one left it.
REST_S = 0.04


def settle(program: Program, run: Burst) -> None:
    """Before a prefill the device rests; before a decode step, which is short, a window is run that does not count.

    That window runs on tokens of its own, so that nothing can be remembered of it; the program is left as it was.
    """
    if program.calls[0].path or not SETTLES[program.region.device.type]:
        return
    if not program.scene.graph:
        time.sleep(REST_S)
        return
    ids = next(a.tensor for a in program.calls[0].arguments if isinstance(a, Given))
    kept, kept_ids = program.region.mirror.clone(), ids.clone()
    program.refresh()
    run(1)
    program.region.mirror.copy_(kept)
    ids.copy_(kept_ids)
