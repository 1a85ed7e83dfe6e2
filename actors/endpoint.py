"""An OpenAI-compatible endpoint as a writer of texts.

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

from actors.config import TeacherConfig
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


class TeacherError(RuntimeError):
    """The teacher wrote nothing usable; a group that needs it is rejected under `name`."""

    name = "teacher_failed"


class TeacherBudgetError(TeacherError):
    """The run has used up its calls to the teacher."""

    name = "teacher_budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A text, and whether its writer came to an end rather than to the token limit."""

    text: str
    complete: bool


class CallBudget:
    """Calls of a whole run, one byte each in a file, so that a run killed and resumed goes on counting."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit

    @property
    def spent(self) -> int:
        """Calls so far."""
        return self._path.stat().st_size if self._path.exists() else 0

    def spend(self) -> None:
        """Count one call before it is made.

        Raises: `TeacherBudgetError` when none is left.
        """
        with self._path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.spent >= self._limit:
                raise TeacherBudgetError(
                    f"the run has made all of its {self._limit} calls to the teacher (teacher.max_calls); "
                    "start another run with a higher cap, or with fewer candidates of the teacher"
                )
            file.write(b".")


class Endpoint:
    """Chat completions of one model at one address."""

    def __init__(self, config: TeacherConfig, budget: CallBudget) -> None:
        self._config = config
        self._budget = budget
        self._key = read_key(config.key_variable)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._client = httpx.AsyncClient(
            base_url=str(config.endpoint),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(config.deadline, connect=min(config.deadline, CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=config.concurrency),
        )

    async def answer(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Answer:
        """One completion of a conversation, sampled as the run samples unless `teacher.request` says otherwise.

        Raises: `TeacherError` with the last failure, `TeacherBudgetError` when the cap on calls is reached.
        """
        request = {
            "model": self._config.model,
            "messages": list(messages),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
        } | self._config.request
        request = {key: value for key, value in request.items() if value is not None}
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
                last = f"no answer within {self._config.deadline:g} s (teacher.deadline)"
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
                    f"asks for a pause of {pause:.0f} s, more than teacher.longest_pause = "
                    f"{self._config.longest_pause:g}: {last}"
                )
            if attempt < self._config.attempts:
                await asyncio.sleep(pause)
        raise self._error(f"gave no answer in {self._config.attempts} tries (teacher.attempts): {last}")

    def _read(self, response: httpx.Response) -> Answer:
        try:
            choice = response.json()["choices"][0]
            text, reason = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self._error(f"answers what is no chat completion: {self._quote(response.text)}") from None
        if not isinstance(text, str) or not text.strip():
            raise self._error(f"answers without a text (finish_reason {reason!r})")
        return Answer(text=text.strip(), complete=reason != "length")

    def _error(self, what: str) -> TeacherError:
        return TeacherError(f"the teacher {self._config.model} at {self._config.endpoint} {what}")

    def _quote(self, text: str) -> str:
        """The beginning of a text from outside, without the key, which some endpoints repeat."""
        return (text.replace(self._key, "(key)") if self._key else text)[:DETAIL]


def read_key(variable: str | None) -> str:
    """The key in an environment variable; empty when no variable is named.

    Raises: `TeacherError` that names the variable, when it is unset or holds what no header can carry.
    """
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TeacherError(
            f"teacher.key_variable names the environment variable {variable}, which is not set here; set it where the "
            "run is started, and on a cluster where Ray is (ray start) or in the job's runtime environment"
        )
    if not key.isascii() or not key.isprintable():
        raise TeacherError(f"the environment variable {variable} holds characters that no key has; set it again")
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
