"""Three programmable judges of short answers; the majority of the three is the demo's preference.

Each is `judge(prompt, first, second)` and returns 1 when `first` is preferred, 0 when `second` is, 1/2 for a
tie; `judge(p, a, b) + judge(p, b, a)` is exactly 1. Nothing is random or learned, so that a reader can work
every verdict out by hand, with the word lists in `words/`.

First of all an answer has to be **sound**. `defects` names what is wrong with one that is not:

- *too few words*: under 8;
- *not words*: over 1 in 10 words and symbols is no plausible English word or number ("xtroy.Roc#kerp");
- *repetitive*: a run of five words occurs twice (unless the prompt has it), or under 55% of the words are
  distinct;
- *unnatural wording*: under 20% or over 80% of the words are function words ("the", "you", "with"), or six
  content words follow each other without one, or nine function words do ("great happy warm joy love smile");
- *echo*: fewer than four distinct content words that are not the prompt's own;
- *off topic*: it neither takes up a content word of the prompt nor names three everyday things.

With every judge the answer with fewer defects wins, so warmth, brevity and concreteness decide only between
answers that are equally sound; two that are equally unsound tie. Between two sound answers:

- **warmth**: friendlier wording wins. The score is the mean over sentences of VADER's compound score in
  [-1, 1], capped at 0.7 (about two kind words in a sentence); a word of VADER's lexicon counts only the first
  time, and capitals, exclamation marks, emoji and symbols count nothing (Hutto and Gilbert, ICWSM 2014).
- **brevity**: fewer words win, but nothing is gained below 20. An answer that does not end its last sentence
  is not finished, so any finished one counts as shorter.
- **concreteness**: the greater share (t + c) / (n + 5) wins. Of the n distinct content words that the answer
  adds to the prompt's, c are everyday things, actions or amounts (`words/everyday.txt`, or digits); t of the
  prompt's own content words are taken up, and more than 2 count as 2. The 5 keeps a handful of words from
  being the most concrete answer there is.

The majority of the three is a general preference: it can be intransitive (A over B, B over C, C over A).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

MINIMUM_WORDS = 8
MAXIMUM_ODD_SHARE = 0.1
MINIMUM_DISTINCT_SHARE = 0.55
REPEATED_RUN = 5
FUNCTION_SHARE = (0.20, 0.80)
LONGEST_CONTENT_RUN = 5
LONGEST_FUNCTION_RUN = 8
MINIMUM_NEW_WORDS = 4
MINIMUM_EVERYDAY_WORDS = 3
WARM_ENOUGH = 0.7
SHORT_ENOUGH = 20
CONCRETENESS_PRIOR = 5
TOPIC_WORDS_COUNTED = 2
CACHED = 4096


def _word_list(name: str) -> frozenset[str]:
    lines = (Path(__file__).parent / "words" / f"{name}.txt").read_text("utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


FUNCTION_WORDS = _word_list("function")
TASK_WORDS = _word_list("task")
EVERYDAY_WORDS = _word_list("everyday")

_TOKEN = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*|\d+(?:[.,:]\d+)*|\n|[^\sA-Za-z\d]")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')*]*\s+|\n+")
_FINISHED = re.compile(r"[.!?][^A-Za-z0-9]*$")
_EMPTY_LIST_ITEM = re.compile(r"\n\W*\d+[.)]\W*$")
_ORDINARY_MARKS = frozenset("\n.,;:!?'\"()-*/%&")
_UNLIKELY_WORD = re.compile(r"[bcdfghjklmnpqrstvwxz]{6}|(.)\1\1|^[^aeiouy]{4,}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    """What the judges read of one answer."""

    words: tuple[str, ...]
    """In lower case and in order; numbers are words."""
    content: frozenset[str]
    """Stems of the words that are not function words."""
    odd_share: float
    content_run: int
    function_run: int
    finished: bool
    sentences: tuple[str, ...]


def warmth(prompt: str, first: str, second: str) -> float:
    """Prefer the friendlier wording among equally sound answers."""
    return _verdict(prompt, first, second, _warmth(first), _warmth(second))


def brevity(prompt: str, first: str, second: str) -> float:
    """Prefer the shorter of two equally sound answers, a finished one before an unfinished one."""
    return _verdict(prompt, first, second, _brevity(first), _brevity(second))


def concreteness(prompt: str, first: str, second: str) -> float:
    """Prefer, among equally sound answers, the one whose words are more often everyday things and actions."""
    return _verdict(prompt, first, second, _concreteness(prompt, first), _concreteness(prompt, second))


def sound_then_warm(prompt: str, first: str, second: str) -> float:
    """Prefer the answer with fewer defects, then the friendlier wording, also where both have some.

    Unlike `warmth` it tells most answers of a poor writer apart; it is the gold scorer of docs/scoring.md.
    """
    value, other = ((-len(defects(prompt, answer)), _warmth(answer)) for answer in (first, second))
    return 0.5 if value == other else float(value > other)


@lru_cache(maxsize=CACHED)
def defects(prompt: str, answer: str) -> tuple[str, ...]:
    """Name what is wrong with `answer`; empty for a sound one."""
    text, asked = _read(answer), _read(prompt)
    count = len(text.words)
    function_share = sum(word in FUNCTION_WORDS for word in text.words) / max(count, 1)
    prompt_runs = set(_runs(asked.words))
    runs = [run for run in _runs(text.words) if run not in prompt_runs]
    topic, new = _topic(prompt), text.content - asked.content
    wrong = {
        "too few words": count < MINIMUM_WORDS,
        "not words": text.odd_share > MAXIMUM_ODD_SHARE,
        "repetitive": len(set(runs)) < len(runs) or len(set(text.words)) < MINIMUM_DISTINCT_SHARE * count,
        "unnatural wording": not FUNCTION_SHARE[0] <= function_share <= FUNCTION_SHARE[1]
        or text.content_run > LONGEST_CONTENT_RUN
        or text.function_run > LONGEST_FUNCTION_RUN,
        "echo": len(new) < MINIMUM_NEW_WORDS,
        "off topic": bool(topic) and not topic & text.content and _everyday(new) < MINIMUM_EVERYDAY_WORDS,
    }
    return tuple(name for name, holds in wrong.items() if holds)


def stem(word: str) -> str:
    """Strip the commonest English endings: "berries" and "berry", "baking" and "baked" become the same."""
    word = word.removesuffix("'s")
    for ending in ("ings", "ing", "ies", "ied", "ed", "es", "s", "y", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            word += "i" if ending in ("ies", "ied", "y") else ""
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls" else word


_EVERYDAY_STEMS = frozenset(stem(word) for word in EVERYDAY_WORDS)


def _verdict(prompt: str, first: str, second: str, value: float, other: float) -> float:
    wrong, other_wrong = len(defects(prompt, first)), len(defects(prompt, second))
    if wrong != other_wrong:
        return float(wrong < other_wrong)
    if wrong or value == other:
        return 0.5
    return float(value > other)


@lru_cache(maxsize=CACHED)
def _warmth(answer: str) -> float:
    analyser = _vader()
    seen: set[str] = set()
    scores = []
    for sentence in _read(answer).sentences:
        kept = []
        for word in sentence.split():
            root = stem(word)
            if word in analyser.lexicon and root in seen:
                continue
            seen.add(root)
            kept.append(word)
        scores.append(min(analyser.polarity_scores(" ".join(kept))["compound"], WARM_ENOUGH))
    return float(sum(scores) / max(len(scores), 1))


def _brevity(answer: str) -> float:
    text = _read(answer)
    return -max(len(text.words), SHORT_ENOUGH) - (0.0 if text.finished else 1e6)


@lru_cache(maxsize=CACHED)
def _concreteness(prompt: str, answer: str) -> float:
    content = _read(answer).content
    new = content - _read(prompt).content
    taken_up = min(len(_topic(prompt) & content), TOPIC_WORDS_COUNTED)
    return (taken_up + _everyday(new)) / (len(new) + CONCRETENESS_PRIOR)


def _everyday(stems: frozenset[str]) -> int:
    return sum(word in _EVERYDAY_STEMS or word[0].isdigit() for word in stems)


def _runs(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [words[i : i + REPEATED_RUN] for i in range(len(words) - REPEATED_RUN + 1)]


@lru_cache(maxsize=CACHED)
def _topic(prompt: str) -> frozenset[str]:
    return _read(prompt).content - frozenset(stem(word) for word in TASK_WORDS)


@lru_cache(maxsize=CACHED)
def _read(answer: str) -> _Text:
    plain = answer.replace("\u2019", "'").replace("\u2018", "'").replace("\u201c", '"').replace("\u201d", '"')
    plain = plain.replace("\u2013", "-").replace("\u2014", "-").strip()
    tokens = _TOKEN.findall(plain)
    words = tuple(token.lower() for token in tokens if token[0].isalnum())
    odd = sum(_is_odd(token) for token in tokens)
    content_run, function_run = _longest_runs(tokens)
    return _Text(
        words=words,
        content=frozenset(stem(word) for word in words if word not in FUNCTION_WORDS),
        odd_share=odd / max(len(words), 1),
        content_run=content_run,
        function_run=function_run,
        finished=bool(_FINISHED.search(plain)) and not _EMPTY_LIST_ITEM.search(plain),
        sentences=tuple(cleaned for part in _SENTENCE_END.split(plain) if (cleaned := _bare(part))),
    )


def _is_odd(token: str) -> bool:
    """Whether a token is a stray symbol, or letters that make no plausible English word."""
    if not token[0].isalnum():
        return token not in _ORDINARY_MARKS
    if token[0].isdigit():
        return False
    inner_capitals = not token.isupper() and any(letter.isupper() for letter in token[1:])
    shouted = token.isupper() and len(token) > 4
    too_long = max(len(part) for part in re.split("['-]", token)) > 16
    return inner_capitals or shouted or too_long or bool(_UNLIKELY_WORD.search(token.lower()))


def _longest_runs(tokens: list[str]) -> tuple[int, int]:
    """Longest uninterrupted runs of content words and of function words; a mark ends a run too."""
    longest = {True: 0, False: 0}
    previous, length = None, 0
    for token in tokens:
        kind = token.lower() in FUNCTION_WORDS if token[0].isalnum() else None
        length = length + 1 if kind == previous else 1
        previous = kind
        if kind is not None:
            longest[kind] = max(longest[kind], length)
    return longest[False], longest[True]


def _bare(sentence: str) -> str:
    """The sentence as lower-case words alone, so that only the wording can be warm."""
    return " ".join(token.lower() for token in _TOKEN.findall(sentence) if token[0].isalnum())


@lru_cache(maxsize=1)
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
