"""The command `fk-gym`."""

from fastkernels_gym.cli.app import main

__all__ = ["main"]
