"""Text that others wrote, made harmless: whatever a player, a server or an LLM wrote is data in a prompt."""

from __future__ import annotations

import re
import unicodedata

LONGEST = 6000
"""Characters of a block, unless said otherwise."""

_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# What chat templates are made of: a server may take it for the end of a message wherever it stands.
_MARKERS = re.compile(
    r"<(?=[|\uff5c])"  # <|im_start|>, <|eot_id|>, DeepSeek's full-width bars
    r"|(?<=[|\uff5c])(?=>)"
    r"|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|start_of_image|end_of_image)>)"
    r"|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])"
)


def plain(text: str) -> str:
    """Text without what is not seen, and with a blank in every marker of a chat's messages."""
    seen = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in _HIDDEN)
    return _MARKERS.sub(lambda found: f"{found[0]} ", seen)


def fenced(text: str, language: str = "", limit: int = LONGEST) -> str:
    """Text as a Markdown block that nothing in it can end.

    Args:
        text: any text.
        language: named on the opening fence.
        limit: characters kept; what is cut is the middle.
    """
    clean = plain(text)
    if len(clean) > limit:
        cut = len(clean) - limit
        clean = f"{clean[: limit // 2]}\n[... {cut} characters ...]\n{clean[-(limit // 2) :]}"
    longest = max((len(run) for run in re.findall(r"`+", clean)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{clean.strip(chr(10))}\n{fence}"
