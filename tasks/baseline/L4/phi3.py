"""Phi-3 and Phi-4: Llama's model, packed in the checkpoint as it is here."""

from __future__ import annotations

from typing import ClassVar

from .llama import LlamaForCausalLM


class Phi3ForCausalLM(LlamaForCausalLM):
    """As `LlamaForCausalLM`; the config's `rope_parameters` say how much of a head is rotated."""

    packed_modules_mapping: ClassVar[dict[str, dict[str, str | int]]] = {}


__all__ = ["Phi3ForCausalLM"]
