"""Keys, limits and sizes: who gets in, and what everybody else is told."""

import asyncio
import logging
from typing import Any

import httpx
import pytest

from serving.admission import Admission
from serving.errors import ServingError
from serving.keys import KeyFileError, Keyring, main, make_key
from serving.settings import Limits, read_keys
from tests.serving.echo import chat, client, settings

CHAT = "/v1/chat/completions"


def test_a_key_opens_and_its_line_does_not_hold_it() -> None:
    key, line = make_key("ann")
    other, _ = make_key("ann")
    ring = Keyring([line, make_key("bob")[1]])
    assert ring.owner(f"Bearer {key}") == "ann"
    assert ring.owner(f"bearer {key}") == "ann"
    assert key not in line
    for wrong in (None, "", key, f"Basic {key}", f"Bearer {other}", f"Bearer {key}x", "Bearer ", f"Bearer {line}"):
        assert ring.owner(wrong) is None


@pytest.mark.parametrize("line", ["ann", "ann secret", "ann sha256:12", "ann sha256:" + "g" * 64])
def test_a_line_that_is_no_key_is_refused_without_showing_it(line: str) -> None:
    with pytest.raises(KeyFileError, match="key 2 is not of the form") as refused:
        Keyring([make_key("x")[1], line])
    assert "secret" not in str(refused.value)


def test_names_are_unique_and_plain() -> None:
    with pytest.raises(KeyFileError, match="key 2 has a name that an earlier one has"):
        Keyring([make_key("a")[1], make_key("a")[1]])
    for name in ("", "a b", "a,b", "#a"):
        with pytest.raises(KeyFileError):
            make_key(name)


def test_keys_come_from_a_file_or_the_environment(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ann"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    (tmp_path / "keys").write_text(f"# who may\n{line}\n\n")
    assert read_keys(str(tmp_path / "keys"), {}) == (line,)
    assert read_keys(None, {"NASHLOOP_KEYS": f"{line},b x"}) == (line, "b x")
    assert (main([]), main(["a b"])) == (2, 1)


def test_without_keys_is_said_explicitly() -> None:
    with pytest.raises(ValueError, match="anyone who reaches the port"):
        settings(keys=())
    assert settings(keys=(make_key("a")[1],)).without_keys is False


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def refusal(admission: Admission, key: str) -> int | None:
    """Status with which a request that would end at once is turned away."""
    try:
        with admission.request(key):
            return None
    except ServingError as error:
        return error.status


def test_the_rate_of_a_key_is_a_bucket_that_refills() -> None:
    clock = Clock()
    admission = Admission(Limits(key_rate=2, key_burst=3), clock)
    assert [refusal(admission, "a") for _ in range(5)] == [None, None, None, 429, 429]
    assert refusal(admission, "b") is None, "another key has a rate of its own"
    clock.now = 0.5
    assert [refusal(admission, "a") for _ in range(2)] == [None, 429]
    clock.now = 100.0
    assert [refusal(admission, "a") for _ in range(4)] == [None, None, None, 429], "no more than the burst is saved up"


def test_running_requests_are_limited_for_a_key_and_for_all() -> None:
    admission = Admission(Limits(running=3, key_running=2), Clock())
    with admission.request("a"), admission.request("a"):
        assert refusal(admission, "a") == 429
        with admission.request("b"):
            assert admission.running == 3
            assert refusal(admission, "c") == 503
        assert refusal(admission, "c") is None
    assert admission.running == 0
    assert refusal(admission, "a") is None


def ask(*requests: tuple[str, str, dict[str, Any]], **given: Any) -> list[httpx.Response]:
    """Requests at once to one application."""

    async def together() -> list[httpx.Response]:
        async with client(settings(**given)) as asking:
            return list(await asyncio.gather(*(asking.request(m, path, **more) for m, path, more in requests)))

    return asyncio.run(together())


def test_a_wrong_key_is_told_nothing_else() -> None:
    key, line = make_key("ann")
    right = {"headers": {"authorization": f"Bearer {key}"}}
    found = ask(
        ("POST", CHAT, {"json": chat()} | right),
        ("POST", CHAT, {"json": chat()}),
        ("POST", CHAT, {"content": b"no json", "headers": {"authorization": "Bearer wrong"}}),
        ("GET", "/v1/models", {}),
        ("GET", "/v1/unknown", {}),
        ("GET", "/health", {}),
        ("GET", "/ready", {}),
        keys=(line,),
    )
    assert [answer.status_code for answer in found] == [200, 401, 401, 401, 401, 200, 200]
    assert found[1].headers["www-authenticate"] == "Bearer"
    assert found[2].json()["error"]["code"] == "invalid_api_key"


def test_overload_is_shed_with_a_time_to_come_back_and_then_over() -> None:
    limits = {"running": 2, "deadline": 0.3}
    found = ask(*[("POST", CHAT, {"json": chat("sleep")})] * 5, limits=limits)
    assert sorted(answer.status_code for answer in found) == [503, 503, 503, 504, 504]
    shed = next(answer for answer in found if answer.status_code == 503)
    assert shed.headers["retry-after"] == "1"
    assert shed.json()["error"]["type"] == "overloaded_error"


def test_a_key_over_its_rate_gets_429() -> None:
    found = ask(*[("POST", CHAT, {"json": chat()})] * 3, limits={"key_rate": 0.1, "key_burst": 1})
    assert sorted(answer.status_code for answer in found) == [200, 429, 429]
    assert next(a for a in found if a.status_code == 429).headers["retry-after"] == "10"


def test_a_long_body_is_refused_whether_it_says_so_or_not() -> None:
    async def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 100

    announced, streamed = ask(
        ("POST", CHAT, {"content": b"x" * 2000}), ("POST", CHAT, {"content": pieces()}), limits={"body_bytes": 1024}
    )
    assert announced.status_code == streamed.status_code == 413
    assert "1024 bytes" in streamed.json()["error"]["message"]


def test_the_log_names_the_request_and_never_its_text(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ray.serve").propagate = True
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        ask(("POST", CHAT, {"json": chat("my secret"), "headers": {"x-request-id": "id-1"}}))
        (broken,) = ask(("POST", CHAT, {"json": chat("break: my secret"), "headers": {"x-request-id": "id-2"}}))
        ask(("POST", "/v1/x", {"json": chat(), "headers": {"x-request-id": "a secret\tid"}}))
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "internal_error")
    assert f"id-1 key=anybody {CHAT} 200" in caplog.text
    assert "id-2 failed: RuntimeError" in caplog.text
    assert "secret" not in caplog.text
