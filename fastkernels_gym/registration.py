"""Registers the environments with Gymnasium without importing it.

Gymnasium has no plugin discovery, so the environments have to be registered when this package is imported; importing
Gymnasium for that would cost every command and every player its 0.2 s. They are registered the moment Gymnasium itself
has been imported, whichever of the two comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ENVIRONMENTS: dict[str, dict[str, int]] = {
    "FastKernels-v0": {},
    **{f"FastKernels/L{level}-v0": {"level": level} for level in (1, 2, 3, 4)},
}
_DETERMINISTIC = "FastKernels/Deterministic-v0"


def register() -> None:
    """Adds the environments to Gymnasium's registry; those already there are left as they are."""
    import gymnasium

    for name, kwargs in _ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point="fastkernels_gym.envs:FastKernelsEnv",
                vector_entry_point="fastkernels_gym.envs:FastKernelsVectorEnv",
                nondeterministic=True,  # rewards are measured times
                kwargs=kwargs,
            )
    if _DETERMINISTIC not in gymnasium.registry:
        gymnasium.register(_DETERMINISTIC, entry_point="fastkernels_gym.envs:DeterministicFastKernelsEnv")


def register_when_imported() -> None:
    """Registers now if Gymnasium is loaded, else as soon as it is."""
    if "gymnasium" in sys.modules:
        register()
    elif not any(isinstance(finder, _GymnasiumFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _GymnasiumFinder())


class _GymnasiumFinder(MetaPathFinder):
    """Has `register` run after the first import of Gymnasium, then takes itself off the path.

    Being asked where Gymnasium is, as libraries do that probe for it, is not an import and changes nothing.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._register_after(spec.loader)
                return spec
        return None

    def _register_after(self, loader: Loader) -> None:
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            sys.meta_path.remove(self)
            register()

        loader.exec_module = execute_and_register  # type: ignore[method-assign]
