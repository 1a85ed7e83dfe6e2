"""How a direction is told to a policy that was trained to follow one: the published wordings, as files.

`paper` and `simpo` are those of Robust Preference Selection (arXiv 2510.20498, the authors' code), `dpa` is the system
message of Directional Preference Alignment (arXiv 2402.18571). `steerlm` is in the manner of SteerLM: the levels are
mapped as the RPS authors' draft maps them, their order and wording in the prompt are ours.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

Messages = Sequence[Mapping[str, Any]]

FOLDER = Path(__file__).parent / "templates"


def conditioned(messages: Messages, template: str, weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """The conversation with a direction in it; `weights` is a unit vector by objective.

    A template with `{prompt}` becomes the last user message, around what that said; one without goes into the system
    message, before what that said.
    Raises: ValueError for a conversation whose last user message isn't one text.
    """
    text = _template(template)
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
        last["content"] = _filled(text, values | {"prompt": last["content"]})
        return told
    system = _filled(text, values)
    if told and told[0].get("role") == "system":
        return [told[0] | {"content": f"{system}\n\n{told[0].get('content') or ''}"}, *told[1:]]
    return [{"role": "system", "content": system}, *told]


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


def _filled(template: str, values: Mapping[str, str]) -> str:
    """One pass, so that a field's name within a user's text stays what it is."""
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], template)
