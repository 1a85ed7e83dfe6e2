"""A teacher's endpoint: what is asked, what is tried again, what ends with a message, and what is never said."""

import asyncio
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors import endpoint
from actors.config import TeacherConfig
from actors.endpoint import Answer, CallBudget, Endpoint, EndpointError, read_key, retry_after
from tests.endpoint import Reply, Server, completion, serve
from tests.examples import SAMPLING

KEY = "sk-not-to-be-seen"
MESSAGES = ({"role": "user", "content": "Why is the sky blue?"},)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as found:
        yield found


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("TEACHER_KEY", KEY)


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Callable[..., list[Answer | BaseException]]:
    """Sends `calls` questions at once to the server, and gives back the answers or what was raised."""

    def run(calls: int = 1, seed: int = 7, **changes: Any) -> list[Answer | BaseException]:
        options = {"model": "large", "endpoint": server.address, "key_variable": "TEACHER_KEY", "max_calls": 100}
        config = TeacherConfig.model_validate(options | changes)

        async def all_calls() -> list[Answer | BaseException]:
            budget = CallBudget(tmp_path / "calls", config.max_calls or 0)
            source = Endpoint(config, config.model, str(config.endpoint), budget)
            asked = (source.answer(MESSAGES, SAMPLING, seed) for _ in range(calls))
            answers = await asyncio.gather(*asked, return_exceptions=True)
            await source.close()
            return answers

        return asyncio.run(all_calls())

    return run


Ask = Callable[..., list[Answer | BaseException]]


def failure(answer: Answer | BaseException) -> str:
    assert isinstance(answer, EndpointError), answer
    assert answer.name == "teacher_failed"
    return str(answer)


def test_an_answer_is_asked_for_as_the_run_samples(ask: Ask, server: Server) -> None:
    assert ask() == [Answer(text="Light scatters.", complete=True)]
    assert server.requests == [
        {
            "path": "/v1/chat/completions",
            "model": "large",
            "messages": list(MESSAGES),
            "max_tokens": SAMPLING.max_new_tokens,
            "temperature": SAMPLING.temperature,
            "top_p": SAMPLING.top_p,
            "seed": 7,
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_the_request_can_be_changed_field_by_field(ask: Ask, server: Server) -> None:
    ask(request={"temperature": 0.2, "max_tokens": None, "max_completion_tokens": 9, "seed": None})
    asked = server.requests[0]
    assert (asked["temperature"], asked["max_completion_tokens"]) == (0.2, 9)
    assert not {"max_tokens", "seed"} & asked.keys()


def test_without_a_variable_no_key_is_sent(ask: Ask, server: Server) -> None:
    ask(key_variable=None)
    assert "Authorization" not in server.headers[0]


def test_a_cut_answer_is_not_complete(ask: Ask, server: Server) -> None:
    server.script = [Reply(body=completion(" cut off ", "length"))]
    assert ask() == [Answer(text="cut off", complete=False)]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(ask: Ask, server: Server, status: int) -> None:
    server.script = [Reply(status=status), Reply(status=status), Reply(body=completion("at last"))]
    assert ask(attempts=3) == [Answer(text="at last", complete=True)]
    assert len(server.requests) == 3


def test_tries_end(ask: Ask, server: Server) -> None:
    server.script = [Reply(status=500, body="out of order")]
    message = failure(ask(attempts=2)[0])
    assert "no answer in 2 tries (teacher.attempts): status 500: out of order" in message
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [302, 400, 401, 404])
def test_what_stays_wrong_is_not_tried_again(ask: Ask, server: Server, status: int) -> None:
    server.script = [Reply(status=status, body="no such model")]
    assert f"status {status}: no such model" in failure(ask()[0])
    assert len(server.requests) == 1


def test_a_requested_pause_is_kept(ask: Ask, server: Server) -> None:
    server.script = [Reply(status=429, headers={"Retry-After": "1"}), Reply(body=completion())]
    began = time.monotonic()
    assert ask() == [Answer(text="Light scatters.", complete=True)]
    # Far above what a busy machine adds, and no longer than any pause may be.
    assert 1.0 <= time.monotonic() - began < 60.0


def test_a_pause_too_long_is_a_failure_at_once(ask: Ask, server: Server) -> None:
    server.script = [Reply(status=429, headers={"Retry-After": "3600"}, body="quota")]
    assert "a pause of 3600 s, more than teacher.longest_pause = 60: status 429: quota" in failure(ask()[0])
    assert len(server.requests) == 1


def test_a_pause_is_read_as_seconds_or_as_a_date() -> None:
    date = formatdate(time.time() + 30, usegmt=True)
    assert retry_after(httpx.Headers({"Retry-After": "2.5"})) == 2.5
    assert 28 <= retry_after(httpx.Headers({"Retry-After": date})) <= 31
    for nothing in ({}, {"Retry-After": "soon"}, {"Retry-After": "-4"}):
        assert retry_after(httpx.Headers(nothing)) == 0.0


def test_a_call_has_a_deadline(ask: Ask, server: Server) -> None:
    server.script = [Reply(seconds=600.0, body=completion())]
    assert "no answer within 1 s (teacher.deadline)" in failure(ask(deadline=1.0, attempts=2)[0])
    assert len(server.requests) == 2


def test_nobody_there_is_a_failure_that_names_the_address(ask: Ask) -> None:
    message = failure(ask(endpoint="http://127.0.0.1:9/v1", attempts=2)[0])
    assert "the teacher large at http://127.0.0.1:9/v1 gave no answer in 2 tries" in message
    assert "ConnectError" in message


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("<html>welcome</html>", "what is no chat completion: <html>welcome"),
        ("[]", "what is no chat completion: []"),
        ('{"choices": []}', "no chat completion"),
        ('{"choices": [{"message": null}]}', "no chat completion"),
        ('{"choices": ["text"]}', "no chat completion"),
        (completion(None, "content_filter"), "without a text (finish_reason 'content_filter')"),
        (completion("  \n"), "without a text"),
    ],
)
def test_nonsense_is_quoted(ask: Ask, server: Server, body: str, part: str) -> None:
    server.script = [Reply(body=body)]
    assert part in failure(ask()[0])
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [200, 401, 500])
def test_the_key_is_never_repeated(ask: Ask, server: Server, status: int) -> None:
    padding = "x" * (endpoint.DETAIL - len(KEY) // 2)
    for body in (f"wrong key: {KEY}", padding + KEY):
        server.script = [Reply(status=status, body=body)]
        error = ask(attempts=1)[0]
        assert KEY[: len(KEY) // 2] not in failure(error)
        assert isinstance(error, EndpointError)
        assert error.__cause__ is None


def test_calls_are_counted_over_the_run(ask: Ask, server: Server, tmp_path: Path) -> None:
    server.script = [Reply(status=500), Reply(body=completion())]
    assert ask(max_calls=3) == [Answer(text="Light scatters.", complete=True)]
    assert ask(max_calls=3) == [Answer(text="Light scatters.", complete=True)]
    spent = ask(max_calls=3)[0]
    assert isinstance(spent, EndpointError)
    assert spent.name == "teacher_budget"
    assert "all of its 3 calls" in str(spent)
    assert len(server.requests) == CallBudget(tmp_path / "calls", 3).spent == 3


def test_the_cap_holds_for_calls_at_once(ask: Ask, server: Server) -> None:
    answers = ask(calls=6, max_calls=4)
    assert sum(getattr(answer, "name", None) == "teacher_budget" for answer in answers) == 2
    assert len(server.requests) == 4


@pytest.mark.parametrize("concurrency", [1, 3])
def test_calls_at_once_are_limited(ask: Ask, server: Server, concurrency: int) -> None:
    server.script = [Reply(seconds=0.5, body=completion())]
    assert len(ask(calls=6, concurrency=concurrency)) == 6
    assert server.most_running == concurrency


def test_a_missing_or_broken_key_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", f"  {KEY}\n")
    assert read_key("TEACHER_KEY") == KEY
    monkeypatch.setenv("TEACHER_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(EndpointError, match="TEACHER_KEY holds characters that no key has") as raised:
        read_key("TEACHER_KEY")
    assert KEY not in str(raised.value)
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(EndpointError, match="TEACHER_KEY, which is not set"):
        read_key("TEACHER_KEY")
