"""What goes before a window that counts: it shall find player and device as any other does."""

from __future__ import annotations

import time

from fastkernels_gym.referee.contender import Contender
from fastkernels_gym.referee.program import Program

# Of the full model on a CPU, where targets are 5 %, it would only cost time.
SETTLES = {"cpu": False, "cuda": True}
# A prefill draws all the power that the device may: one after the other they run into its limit, each as far as the
# last one left it.
REST_S = 0.04


def settle(program: Program, player: Contender) -> None:
    """Before a prefill the device rests; before bursts and decode steps a window is run that does not count.

    That window's first call has inputs of its own, so that nothing can be remembered of it.
    """
    if not program.calls[0].path:
        if not SETTLES[program.region.device.type]:
            return
        if not program.scene.graph:
            time.sleep(REST_S)
            return
    elif len(program.calls) == 1:
        return
    program.put_first(program.draw_first())
    player.run(program, 1, decoy=True)
