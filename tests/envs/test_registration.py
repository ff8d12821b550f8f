"""The environments are in Gymnasium's registry whichever package is imported first, and importing ours stays cheap."""

import json
import subprocess
import sys

import gymnasium
import pytest

import fastkernels_gym  # noqa: F401

IDS = ["FastKernels-v0", *(f"FastKernels/L{level}-v0" for level in (1, 2, 3, 4)), "FastKernels/Deterministic-v0"]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "imports",
    [
        "import gymnasium, fastkernels_gym",
        "import fastkernels_gym, gymnasium",
        "import fastkernels_gym, importlib.util; importlib.util.find_spec('gymnasium'); import gymnasium",
        "import fastkernels_gym; from gymnasium.envs import registration; import gymnasium",
        "import gymnasium, importlib; importlib.import_module('fastkernels_gym')",
    ],
)
def test_import_order_does_not_matter(imports: str) -> None:
    code = f"{imports}; import json; print(json.dumps([k for k in gymnasium.registry if k.startswith('FastKernels')]))"
    assert json.loads(run(code)) == IDS


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'gymnasium', 'numpy', 'torch', 'transformers', 'openai', 'pydantic', 'jinja2'}"
    assert run(f"import fastkernels_gym, sys; print(sorted({heavy} & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("name", IDS[:-1])
def test_a_specification_survives_json(name: str) -> None:
    env = gymnasium.make(f"fastkernels_gym:{name}", tasks=["L1/*@tiny-llama"], max_turns=2, failure=-1.0, device="cpu")
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.spec.kwargs == env.spec.kwargs
    assert again.observation_space == env.observation_space
    again.close()
    env.close()
