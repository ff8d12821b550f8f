"""What a call of a program must give: by the baseline, and by the oracle in float64."""

from __future__ import annotations

from torch import nn

from fastkernels_gym.referee.judging import Expected
from fastkernels_gym.referee.program import Program
from fastkernels_gym.referee.routing import Routers
from fastkernels_gym.referee.running import run_baseline, run_oracle
from fastkernels_gym.referee.scene import Call
from fastkernels_gym.tasks.baseline.forward_context import AttentionMetadata


def expect(program: Program, call: Call, metadata: AttentionMetadata | None = None) -> Expected:
    """Runs baseline and oracle on a call, under the program's metadata or another of the scene's."""
    scene, metadata = program.scene, metadata or program.metadata
    module = scene.subject.module.get_submodule(call.path)
    # The model's own rows mix all tokens' routing: nothing leaves its ratio.
    routers = Routers(module if call.path else nn.Identity())
    with routers.heard() as heard:
        baseline = run_baseline(scene, call, metadata)
    baseline_rows = program.kv_rows(call, scene.kv_caches, metadata.slot_mapping)
    with routers.heard() as exact:
        oracle, wide = run_oracle(scene, call, metadata)
    oracle_rows = program.kv_rows(call, wide, metadata.slot_mapping)
    if call.shift:  # whoever reads whole pages must find numbers in nobody's rows
        for rows in scene.kv_caches[program.kv_layer(call) or 0]:
            rows.flatten(0, 1)[metadata.slot_mapping + call.shift] = 0
    return Expected(
        (*baseline, *baseline_rows),
        (*oracle, *oracle_rows),
        routers.unsettled(heard, exact),
        getattr(module, "canonical", None),
        routers.noise(heard, exact),
    )
