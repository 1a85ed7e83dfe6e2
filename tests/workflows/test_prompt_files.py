"""The demo's prompts are many, of many kinds, and the held-out ones are new."""

import json
import re
from itertools import combinations
from pathlib import Path

PROMPTS = Path(__file__).parents[2] / "configs" / "prompts"


def _prompts(name: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (PROMPTS / f"{name}.jsonl").read_text("utf-8").splitlines()]


def _similarity(first: str, second: str) -> float:
    """Common share of the smaller set of word 5-grams, or of all distinct words, whichever is greater."""
    a, b = (re.findall(r"[a-z']+", text.lower()) for text in (first, second))
    grams = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (a, b)]
    shared = len(grams[0] & grams[1]) / max(1, min(map(len, grams)))
    return max(shared, len(set(a) & set(b)) / max(1, len(set(a) | set(b))))


def test_prompts_are_many_and_of_many_kinds() -> None:
    training, heldout = _prompts("instructions"), _prompts("heldout")
    assert len(training) >= 480
    assert len(heldout) >= 128
    for prompts in (training, heldout):
        assert all(5 <= len(prompt.split()) <= 40 and prompt.isascii() for prompt in prompts)
        openings = [" ".join(prompt.split()[:3]) for prompt in prompts]
        assert max(openings.count(opening) for opening in openings) < 0.1 * len(prompts)


def test_no_two_prompts_are_nearly_the_same() -> None:
    assert _similarity("Why is the sky blue today?", "Why is the sky so blue today?") > 0.6
    assert _similarity("How do I make lemonade?", "How do I make lemonade?") == 1.0
    near = [
        pair for pair in combinations(_prompts("instructions") + _prompts("heldout"), 2) if _similarity(*pair) > 0.6
    ]
    assert near == []
