"""An OpenAI-compatible endpoint: a teacher that writes texts, or a judge that compares them.

Every call has a deadline, is tried again after a passing failure, and counts against the run's budget. The key is
read from the environment and appears nowhere else: not in a message, a record or a file.
"""

import asyncio
import email.utils
import fcntl
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from actors.component import EndpointConfig
from actors.records import Message, Sampling

FIRST_PAUSE = 0.5
"""Seconds; the pause before try n is drawn between half of and the whole of FIRST_PAUSE * 2^n."""
CONNECT_SECONDS = 10.0
DETAIL = 300
"""Characters of an endpoint's answer that an error quotes."""
PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.TOO_MANY_REQUESTS,
    *(status for status in HTTPStatus if status >= HTTPStatus.INTERNAL_SERVER_ERROR),
}


class EndpointError(RuntimeError):
    """An endpoint gave nothing usable; a group that needs it is rejected under `name`.

    That is the role of who asked with what happened: `teacher_failed`, or `teacher_budget` when its calls are used up.
    """

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message, name)
        self.name = name

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A text, and whether its writer came to an end rather than to the token limit."""

    text: str
    complete: bool


class CallBudget:
    """Calls of a whole run, one byte each in a file, so that a run killed and resumed goes on counting."""

    def __init__(self, path: Path, limit: int, role: str = "teacher") -> None:
        self._path = path
        self._limit = limit
        self._role = role

    @property
    def spent(self) -> int:
        """Calls so far."""
        return self._path.stat().st_size if self._path.exists() else 0

    def spend(self) -> None:
        """Count one call before it is made.

        Raises: `EndpointError` when none is left.
        """
        with self._path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.spent >= self._limit:
                raise EndpointError(
                    f"the run has made all of its {self._limit} calls to the {self._role} ({self._role}.max_calls); "
                    f"start another run with a higher cap, or with less for the {self._role} to do",
                    f"{self._role}_budget",
                )
            file.write(b".")


class Endpoint:
    """Chat completions of one model at one address; `role` is what its errors call it."""

    def __init__(
        self, config: EndpointConfig, model: str, address: str, budget: CallBudget, role: str = "teacher"
    ) -> None:
        self._config = config
        self._model, self._address, self._role = model, address, role
        self._budget = budget
        self._key = read_key(config.key_variable, role)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._client = httpx.AsyncClient(
            base_url=address,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(config.deadline, connect=min(config.deadline, CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=config.concurrency),
        )

    async def answer(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Answer:
        """One completion of a conversation, sampled as the run samples unless `teacher.request` says otherwise.

        Raises: `EndpointError` with the last failure, or because the cap on calls is reached.
        """
        choice = await self.choice(
            self.request(
                messages,
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed,
            )
        )
        return Answer(text=choice["message"]["content"].strip(), complete=choice.get("finish_reason") != "length")

    def request(self, messages: Sequence[Message], **fields: Any) -> dict[str, Any]:
        """What is sent for a conversation: these fields, unless the configuration's `request` says otherwise."""
        request = {"model": self._model, "messages": list(messages), **fields} | self._config.request
        return {key: value for key, value in request.items() if value is not None}

    async def choice(self, request: dict[str, Any]) -> dict[str, Any]:
        """The first choice of the endpoint's answer; it has a message with a text.

        Raises: as `answer`.
        """
        async with self._slots:
            return self._read(await self._post(request))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _post(self, request: dict[str, Any]) -> httpx.Response:
        """The endpoint's answer to a request, tried again after failures that pass."""
        last = ""
        for attempt in range(1, self._config.attempts + 1):
            self._budget.spend()
            pause = min(FIRST_PAUSE * 2**attempt, self._config.longest_pause) * random.uniform(0.5, 1.0)
            try:
                async with asyncio.timeout(self._config.deadline):
                    response = await self._client.post("chat/completions", json=request)
            except (TimeoutError, httpx.TimeoutException):
                last = f"no answer within {self._config.deadline:g} s ({self._role}.deadline)"
            except (httpx.TransportError, httpx.InvalidURL) as error:
                last = f"{type(error).__name__}: {self._quote(str(error))}"
            else:
                if response.status_code == HTTPStatus.OK:
                    return response
                last = f"status {response.status_code}: {self._quote(response.text)}"
                if response.status_code not in PASSING:
                    raise self._error(f"refuses the request with {last}")
                pause = max(pause, retry_after(response.headers))
            if pause > self._config.longest_pause:
                raise self._error(
                    f"asks for a pause of {pause:.0f} s, more than {self._role}.longest_pause = "
                    f"{self._config.longest_pause:g}: {last}"
                )
            if attempt < self._config.attempts:
                await asyncio.sleep(pause)
        raise self._error(f"gave no answer in {self._config.attempts} tries ({self._role}.attempts): {last}")

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            choice: dict[str, Any] = response.json()["choices"][0]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self._error(f"answers what is no chat completion: {self._quote(response.text)}") from None
        if not isinstance(text, str) or not text.strip():
            raise self._error(f"answers without a text (finish_reason {reason!r})")
        return choice

    def _error(self, what: str) -> EndpointError:
        return EndpointError(f"the {self._role} {self._model} at {self._address} {what}", f"{self._role}_failed")

    def _quote(self, text: str) -> str:
        """The beginning of a text from outside, without the key, which some endpoints repeat."""
        return (text.replace(self._key, "(key)") if self._key else text)[:DETAIL]


def read_key(variable: str | None, role: str = "teacher") -> str:
    """The key in an environment variable; empty when no variable is named.

    Raises: `EndpointError` that names the variable, when it is unset or holds what no header can carry.
    """
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EndpointError(
            f"{role}.key_variable names the environment variable {variable}, which is not set here; set it where the "
            "run is started, and on a cluster where Ray is (ray start) or in the job's runtime environment",
            f"{role}_failed",
        )
    if not key.isascii() or not key.isprintable():
        raise EndpointError(
            f"the environment variable {variable} holds characters that no key has; set it again", f"{role}_failed"
        )
    return key


def retry_after(headers: httpx.Headers) -> float:
    """Seconds that a `Retry-After` header asks for, as a number or as a date (RFC 9110, 10.2.3); 0 without one."""
    value = headers.get("Retry-After", "")
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0
