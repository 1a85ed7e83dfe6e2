"""How a direction is told to a policy that was trained to follow one: the published wordings, as files.

`paper` and `simpo` are those of Robust Preference Selection (arXiv 2510.20498, the authors' code), `dpa` is the system
message of Directional Preference Alignment (arXiv 2402.18571). `steerlm` is in the manner of SteerLM: the levels are
mapped as the RPS authors' draft maps them, their order and wording in the prompt are ours. `spoken` is ours: a small
model that reads nothing into a number follows an instruction. It is made for the objectives warmth and verbosity.

A template has the fields `{prompt}`, `{weights}`, `{levels}`, and `{objective: phrase | phrase | ...}` with phrases for
weights from -1 to 1, in equal steps.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

Messages = Sequence[Mapping[str, Any]]

FOLDER = Path(__file__).parent / "templates"

_FIELD = re.compile(r"\{(\w+)(?::([^{}]*))?\}")


def conditioned(messages: Messages, template: str, weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """The conversation with a direction in it; `weights` is a unit vector by objective.

    A template with `{prompt}` becomes the last user message, around what that said; one without goes into the system
    message, before what that said.
    Raises: ValueError for a conversation whose last user message isn't one text, and for a template with phrases for
    another objective.
    """
    text = _template(template)
    check_template(template, weights)
    values = {
        "weights": " + ".join(f"{name}*{round(100 * value)}" for name, value in weights.items()),
        "levels": ",".join(f"{name}:{min(max(round(4 * value), 0), 4)}" for name, value in weights.items()),
    }
    told = [dict(message) for message in messages]
    if "{prompt}" in text:
        users = [place for place, message in enumerate(told) if message.get("role") == "user"]
        if not users or not isinstance(told[users[-1]].get("content"), str):
            raise ValueError("a preference is told around the last user message, which has to be a text; there is none")
        last = told[users[-1]]
        last["content"] = _filled(text, values | {"prompt": last["content"]}, weights)
        return told
    system = _filled(text, values, weights)
    if told and told[0].get("role") == "system":
        return [told[0] | {"content": f"{system}\n\n{told[0].get('content') or ''}"}, *told[1:]]
    return [{"role": "system", "content": system}, *told]


def check_template(name: str, objectives: Iterable[str]) -> None:
    """Raises: ValueError where the template has phrases for an objective that is not among these."""
    known = set(objectives)
    if unknown := {field for field, phrases in _FIELD.findall(_template(name)) if phrases} - known:
        raise ValueError(
            f"template {name} has phrases for {', '.join(sorted(unknown))}, and the objectives are "
            f"{', '.join(sorted(known)) or 'none'}; take another template, or name the objectives as it does"
        )


def prompt_of(messages: Messages) -> str:
    """What a scorer reads as the prompt: the text of the last user message."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            return "".join(part.get("text", "") for part in content or () if isinstance(part, Mapping))
    return ""


@cache
def _template(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text("utf-8")


def _filled(template: str, values: Mapping[str, str], weights: Mapping[str, float]) -> str:
    """One pass, so that a field's name within a user's text stays what it is."""

    def value(field: re.Match[str]) -> str:
        name, phrases = field.groups()
        return _phrase(phrases.split("|"), weights[name]) if phrases else values[name]

    return _FIELD.sub(value, template)


def _phrase(phrases: Sequence[str], weight: float) -> str:
    """The phrase nearest to a weight in [-1, 1]; of two as near, the one for more."""
    return phrases[math.floor((weight + 1) / 2 * (len(phrases) - 1) + 0.5)].strip()
