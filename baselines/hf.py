"""The agent `hf`: a conversation as `gpt` has it, with a transformers chat model on this machine."""

from __future__ import annotations

from fastkernels_gym.baselines.gpt import GPTAgent


class HFAgent(GPTAgent):
    """Asks a local model for a better candidate each turn; questions of several samples go in one batch."""

    name = "hf"
