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
    """Before a prefill the device rests; where a processor opens the window, the first call is run once, in none."""
    whole = not program.calls[0].path
    if whole and not SETTLES[program.region.device.type]:
        return
    if whole and not program.scene.graph:
        time.sleep(REST_S)
        return
    if program.on_device or (len(program.calls) == 1 and not whole):
        return
    if program.touches_pages:  # of where they lie now the player must be told, on inputs of no window
        program.put_first(program.draw_first())
    player.rouse(program, decoy=program.touches_pages)
