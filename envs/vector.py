"""Several environments over one evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fastkernels_gym.envs.fastkernels import FastKernelsEnv
from fastkernels_gym.executor import Evaluator
from fastkernels_gym.executor.evaluator import Device


class FastKernelsVectorEnv(SyncVectorEnv):
    """Judges the replies of all environments at once; what `gymnasium.make_vec` returns.

    All replies are with the evaluator before the first is waited for, so parsing and building overlap while the
    device's slot stays exclusive. An episode that ends is followed by the next within the same step, its last
    observation and info in `infos["final_obs"]` and `infos["final_info"]`: with Gymnasium's default, every second
    generation of single-turn episodes would be thrown away.

    Args:
        num_envs: how many environments.
        device: `auto`, `cpu` or `cuda`.
        evaluator: one to share with others; it is then not closed here. None makes one.
        kwargs: further arguments of every `FastKernelsEnv`.
    """

    def __init__(
        self, num_envs: int = 1, *, device: Device = "auto", evaluator: Evaluator | None = None, **kwargs: Any
    ) -> None:
        self._own = Evaluator(device=device) if evaluator is None else None
        shared = self._own or evaluator
        super().__init__(
            [partial(FastKernelsEnv, device=device, evaluator=shared, **kwargs) for _ in range(num_envs)],
            autoreset_mode=AutoresetMode.SAME_STEP,
        )

    def step(
        self, actions: Sequence[str]
    ) -> tuple[dict[str, Any], npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Judges one reply of each environment, in order.

        Raises:
            ValueError: unless there is one reply for each.
        """
        if len(actions) != self.num_envs:  # before anything is sent off
            raise ValueError(f"{self.num_envs} environments take {self.num_envs} replies, not {len(actions)}")
        for env, action in zip(self.envs, actions, strict=True):
            env.get_wrapper_attr("begin")(action)
        return super().step(tuple(actions))

    def close_extras(self, **kwargs: Any) -> None:
        super().close_extras(**kwargs)
        if self._own is not None:
            self._own.close()
