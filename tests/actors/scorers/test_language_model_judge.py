"""A language model as judge, over real HTTP: both orders, probabilities, what costs nothing, and what rejects."""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import endpoint
from actors.models import ModelError
from actors.scorer import Panel, Rejection, ScorerError
from actors.scorers.config import ScoringConfig
from actors.scorers.judge_answers import Labels, probability_of
from actors.scorers.judge_sources import weights_stamp
from tests.endpoint import Reply, Server, completion, serve
from tests.examples import candidate

LABELS = Labels(first="A", second="B", tie="C")
KEY = "sk-not-to-be-seen"


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as found:
        found.script = [Reply(body=completion("A"))]
        yield found


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("NASHLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUDGE_KEY", KEY)


Make = Callable[..., Panel]


@pytest.fixture
def make(server: Server, tmp_path: Path) -> Make:
    """A panel of the one judge, with what is different."""

    def built(scoring: dict[str, Any] | None = None, **changes: Any) -> Panel:
        entry = {"llm_judge": "large", "endpoint": server.address, "max_calls": 100} | changes
        return Panel(ScoringConfig.model_validate({"panel": [entry]} | (scoring or {})), str(tmp_path))

    return built


def judged(panel: Panel, *texts: str) -> Any:
    return panel.judged("Why is the sky blue?", tuple(candidate([1], text=text) for text in texts))


def rejection(panel: Panel, *texts: str) -> Rejection:
    with pytest.raises(Rejection) as raised:
        judged(panel, *texts)
    return raised.value


def weighed(text: str, *places: dict[str, float]) -> str:
    """An answer with the probabilities of its tokens, place by place; the most likely one was written."""
    content = [
        {
            "token": max(place, key=lambda token: place[token]),
            "logprob": math.log(max(place.values())),
            "top_logprobs": [{"token": token, "logprob": math.log(p)} for token, p in place.items()],
        }
        for place in places
    ]
    choice = {"message": {"content": text}, "logprobs": {"content": content}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice]})


def test_a_preference_for_a_place_cancels(make: Make, server: Server) -> None:
    """The server always answers A: whoever is shown first wins, which is no preference."""
    found = judged(make(), "one", "two")
    assert found.preference.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert len(server.requests) == found.figures.calls == 2
    questions = [request["messages"][0]["content"] for request in server.requests]
    assert {"[Answer A]\none\n" in question for question in questions} == {True, False}
    assert all("Why is the sky blue?" in question for question in questions)


def test_probabilities_of_both_orders_are_averaged(make: Make, server: Server) -> None:
    # Which order comes first is not said, so both get the same answer: P(A) = 0.6 / 0.75.
    server.script = [Reply(body=weighed("A", {"A": 0.6, "B": 0.15, "The": 0.2}))]
    assert judged(make(), "one", "two").preference[0, 1] == pytest.approx((0.8 + 1 - 0.8) / 2)
    server.script = [Reply(body=completion("A")), Reply(body=completion("B"))]
    server.requests.clear()
    first_shown = judged(make(concurrency=1), "three", "four").preference[0, 1]
    assert first_shown == (1.0 if server.requests[0]["messages"][0]["content"].count("three") else 0.0)


def test_what_is_asked_and_how_it_can_be_changed(make: Make, server: Server, tmp_path: Path) -> None:
    judged(make(key_variable="JUDGE_KEY"), "one", "two")
    asked = server.requests[0]
    fixed = {"model": "large", "max_tokens": 16, "temperature": 0.0, "logprobs": True, "top_logprobs": 5}
    assert {key: asked[key] for key in fixed} == fixed
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    template = tmp_path / "own.txt"
    template.write_text("{second} against {first}: {prompt}")
    server.script = [Reply(body=completion("x"))]
    panel = make(
        template=str(template),
        labels=["x", "y"],
        tie="z",
        max_tokens=3,
        request={"logprobs": None, "top_logprobs": None},
    )
    assert judged(panel, "one", "two").preference[0, 1] == 0.5
    asked = server.requests[-1]
    assert asked["messages"][0]["content"] in (
        "two against one: Why is the sky blue?",
        "one against two: Why is the sky blue?",
    )
    assert asked["max_tokens"] == 3
    assert not {"logprobs", "top_logprobs"} & asked.keys()


def test_equal_texts_tie_unasked(make: Make, server: Server) -> None:
    found = judged(make(), "same", "same")
    assert found.preference[0, 1] == 0.5
    assert server.requests == []


def test_what_was_asked_before_costs_nothing(make: Make, server: Server, tmp_path: Path) -> None:
    before = judged(make(), "one", "two", "three")
    assert (before.figures.calls, before.figures.cached) == (6, 0)
    again = judged(make(), "three", "one", "two")
    assert (again.figures.calls, again.figures.cached) == (6, 6)
    assert len(server.requests) == (tmp_path / "judge_calls").stat().st_size == 6
    assert again.preference[1, 2] == before.preference[0, 1]


@pytest.mark.parametrize("changes", [{"llm_judge": "other"}, {"request": {"seed": 1}}, {"max_tokens": 5}, {"tie": "T"}])
def test_another_question_is_not_answered_from_the_cache(make: Make, server: Server, changes: dict[str, Any]) -> None:
    judged(make(), "one", "two")
    assert judged(make(**changes), "one", "two").figures.cached == 0
    assert len(server.requests) == 4


def test_a_cache_may_be_anywhere(make: Make, server: Server, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "verdicts.sqlite"
    judged(make(cache=str(path)), "one", "two")
    assert path.exists()
    judged(make(), "one", "two")
    assert len(server.requests) == 4
    path.write_text("something else entirely, and much longer than nothing")
    with pytest.raises(ScorerError, match=r"the cache of verdicts .* can't be used: file is not a database"):
        judged(make(cache=str(path)), "one", "two")


def test_fewer_meetings_are_fewer_calls(make: Make, server: Server) -> None:
    found = judged(make(scoring={"pairs": "tournament"}), *"abcd")
    assert found.figures.calls == len(server.requests) == 6


@pytest.mark.parametrize("answer", ["I like both of them.", "A or B", "[[D]]", "?"])
def test_nonsense_rejects_the_group_and_is_not_kept(make: Make, server: Server, answer: str) -> None:
    server.script = [Reply(body=completion(answer))]
    for _ in range(2):
        found = rejection(make(), "one", "two")
        assert found.name == "judge_nonsense"
        assert f"judge large gave none of its labels as a verdict: {answer!r}" in str(found)
    assert len(server.requests) >= 2


def test_an_endpoint_that_fails_rejects_the_group(make: Make, server: Server) -> None:
    server.script = [Reply(status=400, body="no such model")]
    found = rejection(make(), "one", "two")
    assert found.name == "judge_failed"
    assert "the judge large at " in str(found)
    assert "status 400: no such model" in str(found)
    down = rejection(make(endpoint="http://127.0.0.1:9/v1", attempts=2), "one", "two")
    assert "gave no answer in 2 tries (judge.attempts): ConnectError" in str(down)


def test_a_busy_endpoint_is_asked_again(make: Make, server: Server) -> None:
    server.script = [Reply(status=429), Reply(status=503), Reply(body=completion("A"))]
    assert judged(make(attempts=4), "one", "two").preference[0, 1] == 0.5
    assert len(server.requests) > 2
    server.script = [Reply(status=429, headers={"Retry-After": "3600"})]
    assert "a pause of 3600 s, more than judge.longest_pause" in str(rejection(make(), "three", "four"))


def test_a_slow_endpoint_has_a_deadline_for_a_call_and_for_a_group(make: Make, server: Server) -> None:
    server.script = [Reply(body=completion("A"), seconds=600.0)]
    assert "within 0.1 s (judge.deadline)" in str(rejection(make(deadline=0.1, attempts=1), "one", "two"))
    found = rejection(make(group_deadline=0.3, concurrency=1), "one", "two", "three")
    assert (found.name, "more than 0.3 s for a group" in str(found)) == ("judge_failed", True)


def test_calls_are_limited_at_once_and_over_the_run(make: Make, server: Server, tmp_path: Path) -> None:
    server.script = [Reply(body=completion("A"), seconds=0.02)]
    judged(make(concurrency=2), *"abcd")
    assert server.most_running == 2
    found = rejection(make(max_calls=13), "one", "two")
    assert found.name == "judge_budget"
    assert "all of its 13 calls to the judge (judge.max_calls)" in str(found)
    assert (tmp_path / "judge_calls").stat().st_size == 13


def test_after_a_failure_the_next_group_is_judged(make: Make, server: Server) -> None:
    panel = make(deadline=3.0, attempts=1)
    server.script = [Reply(body=completion("A"), seconds=600.0)]
    rejection(panel, "one", "two")
    server.script = [Reply(body=completion("A"))]
    assert judged(panel, "one", "two").preference[0, 1] == 0.5


def test_a_probe_tells_at_once_of_a_judge_that_fails(make: Make, server: Server) -> None:
    for _ in range(2):
        make().probe()
    assert len(server.requests) == 2, "a run that is started again has its answer in the cache"
    server.script = [Reply(body=completion("What do you mean?"))]
    with pytest.raises(ScorerError, match="gave none of its labels as a verdict: 'What do you mean\\?'"):
        make(llm_judge="other").probe()
    with pytest.raises(ScorerError, match="ConnectError"):
        make(endpoint="http://127.0.0.1:9/v1", attempts=1).probe()


def test_the_key_is_not_repeated(make: Make, server: Server, tmp_path: Path) -> None:
    server.script = [Reply(status=401, body=f"wrong key {KEY}")]
    assert KEY not in str(rejection(make(key_variable="JUDGE_KEY"), "one", "two"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_what_is_wrong_is_said_before_anything_is_asked(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ScorerError, match=r"template 'absent\.txt' can't be read"):
        make(template="absent.txt")
    template = tmp_path / "own.txt"
    for text, message in (("{prompt} {first} {secnd}", "unknown field {secnd}"), ("{prompt} {first}", "lacks")):
        template.write_text(text)
        with pytest.raises(ModelError, match=message):
            make(template=str(template))
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ScorerError, match=r"judge\.key_variable names the environment variable JUDGE_KEY"):
        make(key_variable="JUDGE_KEY")


def test_an_engines_model_is_checked_before_it_is_started(tiny_model: Path) -> None:
    def check(**changes: Any) -> Panel:
        entry = {"llm_judge": str(tiny_model), "engine": {}, "max_tokens": 1} | changes
        return Panel(ScoringConfig.model_validate({"panel": [entry]}))

    check()
    with pytest.raises(
        ScorerError, match=r"labels \['first', 'second', 'C'\] are the tokens .* each has to be one token"
    ):
        check(labels=["first", "second"])
    check(labels=["first", "second"], max_tokens=16)
    with pytest.raises(ModelError, match="absent"):
        check(llm_judge="./absent")


def test_other_weights_under_the_same_name_are_another_judge(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"before")
    before = weights_stamp(str(tmp_path))
    assert before == weights_stamp(str(tmp_path))
    weights.write_bytes(b"after!")
    os.utime(weights, ns=(1, 1))
    assert weights_stamp(str(tmp_path)) != before
    assert weights_stamp("organisation/model-on-the-hub") == []


def test_templates_of_the_repository_have_the_fields(make: Make, server: Server) -> None:
    paths = sorted(Path("configs/templates").glob("pairwise*.txt"))
    assert len(paths) == 2
    for path in paths:
        judged(make(template=str(path)), "one {brace}", "two")
    assert "one {brace}" in server.requests[-1]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", 1.0),
        (" B.\n", 0.0),
        ("C", 0.5),
        ("**A**", 1.0),
        ("B is better.", 0.0),
        ("A and B are equally good", None),
        ("It is A that", None),
        ("The first is wrong. Verdict: B", 0.0),
        ("[[A]] no, [[B]]", 0.0),
        ("A good one, but [[B]]", 0.0),
        ("[[A]] and so on for a while", 1.0),
        ("a", None),
        ("It is a draw", None),
        ("", None),
    ],
)
def test_verdicts_that_are_written(text: str, expected: float | None) -> None:
    assert probability_of({"message": {"content": text}}, LABELS) == expected


@pytest.mark.parametrize(
    ("text", "places", "expected"),
    [
        ("A", [{"A": 0.5, "B": 0.25, "C": 0.25}], 0.625),
        ("A", [{" A": 0.3, "A": 0.3, "B": 0.2}], 0.75),
        ("B", [{"B": 0.9}], 0.0),
        ("Verdict: A", [{"Verdict": 1.0}, {":": 1.0}, {" A": 0.6, " B": 0.2}], 0.75),
        ("A, since A says", [{"A": 0.8, "B": 0.2}, {",": 1.0}, {" since": 1.0}, {" A": 1.0}, {" says": 1.0}], 0.8),
        ("A? No: [[B]]", [{"A": 0.9, "B": 0.1}, {"? No: [[": 1.0}, {"B": 0.7, "A": 0.1}, {"]]": 1.0}], 0.125),
        ("A", [{"something": 0.9, "else": 0.1}], 1.0),
    ],
)
def test_log_probabilities_of_the_label_that_was_written(
    text: str, places: list[dict[str, float]], expected: float
) -> None:
    choice = json.loads(weighed(text, *places))["choices"][0]
    assert probability_of(choice, LABELS) == pytest.approx(expected)
