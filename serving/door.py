"""The door: what every request passes before anything reads it.

Keys, limits and the size of the body are checked here, so that a stranger's request costs next to nothing. A request
holds its place until its answer has ended, streams included. What is logged of it names the request, its key, its
route, status and time, never a text.
"""

import contextlib
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.admission import Admission
from serving.errors import ServingError, internal
from serving.keys import Keyring
from serving.metrics import Metrics
from serving.settings import Settings

GUARDED = "/v1/"
ROUTES = (
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/preferences",
    "/v1/scores",
    "/health",
    "/ready",
    "/openapi.json",
)
NO_STATUS = 499
"""Of a request whose client left before there was an answer."""
NAMED = re.compile(r"[A-Za-z0-9._-]{1,64}")

logger = logging.getLogger("ray.serve")


class Door:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._limits = settings.limits
        self._keyring = None if settings.without_keys else Keyring(settings.keys)
        self._admission = Admission(settings.limits, time.monotonic)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if NAMED.fullmatch(given) else uuid.uuid4().hex
        began, status = time.monotonic(), NO_STATUS

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        owner = ""
        try:
            owner = self._owner(scope)
            with self._admission.request(owner) if scope["path"].startswith(GUARDED) else contextlib.nullcontext():
                self._metrics.set_running(self._admission.running)
                body = await self._body(scope, receive)
                await self._app(scope, _replayed(body, receive), answer)
        except ServingError as error:
            await error.response()(scope, receive, answer)
        except Exception as error:
            # Its message may quote a text, so that only its kind is logged; Serve would log all of it.
            logger.error("%s failed: %s", name, type(error).__name__)
            if status == NO_STATUS:
                await internal().response()(scope, receive, answer)
        finally:
            seconds = time.monotonic() - began
            route = next((known for known in ROUTES if scope["path"] == known), "other")
            self._metrics.set_running(self._admission.running)
            self._metrics.requests.inc(tags={"route": route, "status": str(status)})
            self._metrics.seconds.observe(seconds, {"route": route})
            logger.info("%s key=%s %s %s %.3f s", name, owner or "-", route, status, seconds)

    def _owner(self, scope: Scope) -> str:
        """Raises: `ServingError` 401."""
        if self._keyring is None or not scope["path"].startswith(GUARDED):
            return "anybody"
        owner = self._keyring.owner(Headers(scope=scope).get("authorization"))
        if owner is None:
            raise ServingError(
                401,
                "this service needs a key, `Authorization: Bearer ...`, and yours is missing or wrong",
                kind="authentication_error",
                code="invalid_api_key",
            )
        return owner

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises: `ServingError` 413 once it is too long, and 400 for one that is no strict JSON."""
        too_long = ServingError(413, f"the body is longer than the {self._limits.body_bytes} bytes that are allowed")
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self._limits.body_bytes:
            raise too_long
        body, more = b"", scope["method"] not in ("GET", "HEAD")
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._limits.body_bytes:
                raise too_long
        if body:
            _check_json(body)
        return body


def _check_json(body: bytes) -> None:
    """Raises: `ServingError` 400 for what Python's reader would let through: NaN, and halves of characters."""
    try:
        text = body.decode("utf-8")
        parsed = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ServingError(400, "the body is nested too deeply") from None
    except UnicodeError:
        raise ServingError(400, "the body is not valid UTF-8") from None
    except ValueError as error:
        raise ServingError(400, f"the body is not valid JSON: {str(error)[:200]}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _replayed(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """The body that was read, then whatever else the client says: that it left."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
