"""What a preference model reads: conversation and responses as token ids, never longer than its window.

The contract: a response is either read whole, or cut on the side that was stated and counted, or refused; it is
never cut unseen. Without a template a response is read through the tokenizer's chat template, as the assistant's last
message; a template is a text with named fields, whose names are checked before anything is scored.
"""

import string
from collections.abc import Sequence
from typing import Any, Literal

from actors.models import ModelError, render_prompt, require_chat_template
from actors.records import Message

Messages = Sequence[Message]
Side = Literal["left", "right"]

PAIR_TEMPLATE = "[CONTEXT] {prompt} [RESPONSE A] {first} [RESPONSE B] {second} \n"
"""The question of Dong et al. 2405.07863."""


class ResponseTooLong(ValueError):
    """A response that a model can't read whole and may not cut; `name` is what is counted."""

    name = "response_too_long"


class Encoder:
    """Turns what is compared into token ids, and counts what it had to cut in `truncated`."""

    def __init__(
        self, tokenizer: Any, *, template: str | None, fields: Sequence[str], window: int | None, side: Side | None
    ) -> None:
        """`fields` are the names that `template` has to have; `window` is in tokens, none where there is no limit."""
        if template is None:
            require_chat_template(tokenizer)
        else:
            check_template(template, fields)
        self._tokenizer = tokenizer
        self._template = template
        self._window = window
        self._side = side
        self.truncated = 0

    def response(self, messages: Messages, response: str) -> list[int]:
        """Token ids of a conversation with its answer.

        Raises: `ResponseTooLong` where the window is exceeded and nothing may be cut.
        """
        if self._template is None:
            return self._fitted(render_prompt(self._tokenizer, messages, response))
        text = self._template.format(prompt=conversation_text(messages), response=response)
        return self._fitted(list(self._tokenizer(text).input_ids))

    def pair(self, messages: Messages, first: str, second: str) -> list[int]:
        """Token ids of the question which of two answers is better, up to where the label follows; see `response`.

        The template makes the question; where the tokenizer has a chat template, a user asks it.
        """
        assert self._template is not None
        text = self._template.format(prompt=conversation_text(messages), first=first, second=second)
        if self._tokenizer.chat_template:
            return self._fitted(render_prompt(self._tokenizer, [{"role": "user", "content": text}]))
        return self._fitted(list(self._tokenizer(text).input_ids))

    def _fitted(self, ids: list[int]) -> list[int]:
        if self._window is None or len(ids) <= self._window:
            return ids
        if self._side is None:
            raise ResponseTooLong(
                f"prompt and response have {len(ids)} tokens and the window holds {self._window}; widen it, shorten "
                "them, or allow cutting with truncation_side left (loses the beginning) or right (loses the end)"
            )
        self.truncated += 1
        return ids[-self._window :] if self._side == "left" else ids[: self._window]


def conversation_text(messages: Messages) -> str:
    """A conversation for a template's `prompt`: a lone user message as it is, otherwise turn by turn with roles."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n".join(f"<turn> {message['role']}\n{message['content']}" for message in messages)


def check_template(template: str, fields: Sequence[str]) -> None:
    """Raise `ModelError` unless `template` has exactly these fields (braces that are none are doubled)."""
    wanted = ", ".join(f"{{{name}}}" for name in fields)
    try:
        found = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ModelError(
            f"template {template!r} is malformed ({error}); write a brace that is no field twice"
        ) from None
    if unknown := [name for name in found if name not in fields]:
        raise ModelError(f"template {template!r} has an unknown field {{{unknown[0]}}}; it takes {wanted}")
    if missing := [name for name in fields if name not in found]:
        raise ModelError(f"template {template!r} lacks the field {{{missing[0]}}}; it takes {wanted}")
