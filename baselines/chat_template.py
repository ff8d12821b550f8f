"""A tokenizer's chat template, applied so that every model can be asked and no text of others becomes its markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from fastkernels_gym.agent import Message
from fastkernels_gym.errors import UserError

_MARKER = re.compile(r"<[|\uff5c].*[|\uff5c]>")


class ChatTemplate:
    """Turns chats into tokens.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        name: the model's, for messages.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name
        # The longest first: one may be the beginning of another. A lone character could not be broken up.
        added = tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special or _MARKER.fullmatch(str(token))}
        words = sorted((word for word in special if len(word.strip()) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, words))) if words else None

    def tokens(self, chat: Sequence[Message]) -> list[int]:
        """The prompt of a chat.

        Raises:
            UserError: if the template refuses it.
        """
        messages = [Message(role=message["role"], content=self._broken_up(message["content"])) for message in chat]
        text = self._apply(messages)
        instructions = [message["content"].strip() for message in messages if message["role"] == "system"]
        if text is None or not all(part in text for part in instructions):
            # A template without a system role, or one that wants roles to alternate.
            text = self._apply(_merged(messages))
        if text is None:
            raise UserError(f"the chat template of {self._name!r} refuses a question: {self._reason}")
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def _apply(self, messages: Sequence[Message]) -> str | None:
        try:
            text: str = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
            return text
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            self._reason = " ".join(str(error).split())[:300]
            return None

    def _broken_up(self, text: str) -> str:
        """Text with a blank in everything that the tokenizer would take for a special token."""
        if self._special is None:
            return text
        while found := self._special.search(text):
            text = f"{text[: found.start() + 1]} {text[found.start() + 1 :]}"
        return text


def _merged(messages: Sequence[Message]) -> list[Message]:
    """The chat as user and assistant by turns: instructions go before the first question."""
    merged: list[Message] = []
    for message in messages:
        role = "user" if message["role"] == "system" else message["role"]
        if merged and merged[-1]["role"] == role:
            merged[-1] = Message(role=role, content=f"{merged[-1]['content']}\n\n{message['content']}")
        else:
            merged.append(Message(role=role, content=message["content"]))
    return merged
