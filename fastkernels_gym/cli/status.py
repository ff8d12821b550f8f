"""How a command ends, besides 0."""

from __future__ import annotations

BAD_INPUT = 2
INFRASTRUCTURE = 3
LIMIT = 4
INTERRUPTED = 130
