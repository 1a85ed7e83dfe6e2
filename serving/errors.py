"""Errors in the shape that OpenAI's clients read."""

from typing import Any

from fastapi.responses import JSONResponse


class ServingError(Exception):
    """A request that isn't answered; the message says what is allowed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self._error = {"message": message, "type": kind, "param": param, "code": code}
        self._retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """`{"error": {...}}`."""
        return {"error": self._error}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        headers = {} if self._retry_after is None else {"retry-after": str(max(1, round(self._retry_after)))}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def bad_request(message: str, param: str | None = None) -> ServingError:
    """A request that asks for what there isn't."""
    return ServingError(400, message, param=param)


def overloaded(retry_after: float) -> ServingError:
    """The service is full."""
    return ServingError(
        503,
        f"the service is answering as many requests as it can; try again in {max(1, round(retry_after))} s",
        kind="overloaded_error",
        code="overloaded",
        retry_after=retry_after,
    )


def rate_limited(message: str, retry_after: float) -> ServingError:
    """One key asks for too much."""
    return ServingError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after=retry_after)


def deadline_exceeded(seconds: float) -> ServingError:
    """An answer that took too long; its generation was cancelled."""
    message = f"no answer within {seconds:g} s, so its generation was cancelled; ask for fewer tokens or candidates"
    return ServingError(504, message, kind="timeout_error", code="deadline_exceeded")


def lost() -> ServingError:
    """The replica that was answering is gone."""
    message = "the replica that was answering ended; the request can be sent again"
    return ServingError(503, message, kind="server_error", code="replica_lost", retry_after=1.0)


def internal() -> ServingError:
    """A fault of the service; what it is stands in its log, under the request's id."""
    message = "the service failed at this request; its log names the fault under the request id of this answer"
    return ServingError(500, message, kind="server_error", code="internal_error")
