"""The HTTP application: OpenAI's routes, and two of NashLoop's.

A request without `selection` and `preference` goes to vLLM's own OpenAI layer as it came, and its answer comes back as
it was. Every answer names its version in `x-nashloop-version`. Nothing waits longer than the deadline, and what is
given up is cancelled.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Protocol

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from algorithms.selection.rules import tournament
from serving import schema
from serving.door import Door
from serving.errors import ServingError, bad_request, deadline_exceeded
from serving.metrics import Metrics
from serving.selecting import UNSELECTED, Backend, Body, Selector, refused
from serving.settings import Limits, Settings

VERSION_HEADER = "x-nashloop-version"
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.ErrorAnswer} for status in (400, 401, 404, 413, 422, 429, 500, 503, 504)
}


class Service(Backend, Protocol):
    """What the application stands on."""

    async def answer(self, kind: Literal["chat", "completions"], body: Body) -> tuple[int, Body]:
        """The version, and a whole answer or error."""

    def stream(self, kind: Literal["chat", "completions"], body: Body) -> AsyncGenerator[Any, None]:
        """First the version; then parts of a stream, or one error."""

    async def status(self) -> schema.Status:
        """Whether the policy answers."""


def create_app(settings: Settings, service: Service, selector: Selector, metrics: Metrics) -> FastAPI:
    """The application of one ingress replica."""
    app = FastAPI(title="NashLoop", version="1", responses=ERRORS, docs_url=None, redoc_url=None)
    app.add_middleware(Door, settings=settings, metrics=metrics)
    _add_errors(app)
    _add_operations(app, settings, service)
    _add_openai(app, settings, service, selector)
    _add_scores(app, settings, service)
    return app


def _add_operations(app: FastAPI, settings: Settings, service: Service) -> None:
    started = int(time.time())

    @app.get("/health")
    async def health() -> schema.Status:
        """Whether the ingress is alive."""
        return schema.Status(ready=True)

    @app.get("/ready")
    async def ready(response: Response) -> schema.Status:
        """Whether the policy answers, which version, and why no newer one."""
        found = await service.status()
        response.status_code = 200 if found.ready else 503
        return found

    @app.get("/v1/models")
    async def models() -> schema.ModelList:
        """The policy's name."""
        return schema.ModelList(data=[schema.ModelCard(id=settings.name, created=started)])


def _add_openai(app: FastAPI, settings: Settings, service: Service, selector: Selector) -> None:
    limits = settings.limits

    @app.post("/v1/completions", response_model=None)
    async def completions(request: schema.TextRequest, raw: Request) -> Response:
        """Complete a text, as OpenAI's API has it."""
        _check_tokens(limits, request.max_tokens)
        several = isinstance(request.prompt, list) and request.prompt and not isinstance(request.prompt[0], int)
        _check_number(limits, request.n * (len(request.prompt) if several else 1))
        return await _plain(service, "completions", await raw.json(), bool(request.stream), limits.deadline)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: schema.ChatRequest, raw: Request) -> Response:
        """Answer a conversation, as OpenAI's API has it; with `selection`, the best of several candidates."""
        if not request.messages:
            raise bad_request("messages is empty; a conversation has one message or more", "messages")
        _check_tokens(limits, request.max_completion_tokens or request.max_tokens)
        _check_number(limits, 1 if request.n is None else request.n)
        body, stream = await raw.json(), bool(request.stream)
        if request.selection is None and request.preference is None:
            return await _plain(service, "chat", body, stream, limits.deadline)
        plan, selection = selector.plan(request), request.selection or UNSELECTED
        if selection.method == "none":
            told = selector.told(body, plan)
            return await _plain(
                service,
                "chat",
                told,
                stream,
                limits.deadline,
                lambda version: {"nashloop": selector.report(selection, plan, version).model_dump(exclude_none=True)},
            )
        version, answer = await _within(limits.deadline, selector.answer(request, body, plan))
        return JSONResponse(answer, headers={VERSION_HEADER: str(version)})


def _add_scores(app: FastAPI, settings: Settings, service: Service) -> None:
    limits = settings.limits

    @app.post("/v1/scores")
    async def scores(request: schema.ResponsesRequest) -> schema.ScoresAnswer:
        """Reward vectors of responses to one prompt."""
        messages = _messages(settings, request)
        if not settings.scorers:
            raise bad_request("this service has no scorers, so nothing can be scored")
        rewards, problems = await _within(limits.deadline, service.rewards(messages, request.responses))
        return schema.ScoresAnswer(
            objectives=list(settings.scorers), scored_by=settings.scorers, rewards=rewards, problems=problems
        )

    @app.post("/v1/preferences")
    async def preferences(request: schema.ResponsesRequest) -> schema.PreferencesAnswer:
        """Who of two or more responses to one prompt is preferred to whom."""
        messages = _messages(settings, request)
        if settings.judge is None:
            raise bad_request("this service has no judge, so nothing can be compared")
        if len(request.responses) < 2:
            raise bad_request("a comparison needs two responses or more", "responses")
        matrix, problem = await _within(limits.deadline, service.compare(messages, request.responses))
        if problem:
            raise ServingError(500, problem, kind="server_error", code="scoring")
        others = len(matrix) - 1
        return schema.PreferencesAnswer(
            scored_by=settings.judge,
            matrix=matrix,
            win_rates=[(sum(row) - 0.5) / others for row in matrix],
            order=tournament(np.array(matrix)).tolist(),
        )


async def _plain(
    service: Service,
    kind: Literal["chat", "completions"],
    body: Body,
    stream: bool,
    deadline: float,
    more: Callable[[int], Body] = lambda version: {},
) -> Response:
    """What vLLM answers; `more` is added to a whole answer."""
    if not stream:
        version, answer = await _within(deadline, service.answer(kind, body))
        if "error" in answer:
            raise refused(answer)
        return JSONResponse(answer | more(version), headers={VERSION_HEADER: str(version)})
    until = asyncio.get_running_loop().time() + deadline
    parts = service.stream(kind, body)
    version = await _within(deadline, anext(parts))
    first = await _within(until - asyncio.get_running_loop().time(), anext(parts), deadline)
    if isinstance(first, dict):
        raise refused(first)
    headers = {VERSION_HEADER: str(version)}
    return StreamingResponse(_events(first, parts, until, deadline), media_type="text/event-stream", headers=headers)


async def _events(first: Any, parts: AsyncGenerator[Any, None], until: float, deadline: float) -> AsyncIterator[str]:
    """Server-sent events; one that says why the stream ends early is an error in OpenAI's shape."""
    try:
        part = first
        while True:
            yield part
            part = await _within(until - asyncio.get_running_loop().time(), anext(parts), deadline)
    except StopAsyncIteration:
        return
    except ServingError as error:
        yield f"data: {json.dumps(error.body)}\n\n"
    finally:
        await parts.aclose()


async def _within(seconds: float, work: Awaitable[Any], deadline: float | None = None) -> Any:
    """Raises: `ServingError` 504 after that time; what was waited for is cancelled."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise deadline_exceeded(deadline or seconds) from None


def _check_tokens(limits: Limits, tokens: int | None) -> None:
    """Raises: `ServingError` 400 for an answer longer than the service allows."""
    if tokens is not None and limits.output_tokens is not None and tokens > limits.output_tokens:
        raise bad_request(
            f"max_tokens = {tokens} is more than the {limits.output_tokens} that are allowed", "max_tokens"
        )


def _check_number(limits: Limits, number: int) -> None:
    """Raises: `ServingError` 400 for more answers than the service allows, or none."""
    if not 1 <= number <= limits.candidates:
        raise bad_request(f"{number} answers were asked for, and 1 to {limits.candidates} are allowed", "n")


def _messages(settings: Settings, request: schema.ResponsesRequest) -> list[Body]:
    """The conversation. Raises: `ServingError` 400 unless there is one, and responses that are not too many."""
    _check_number(settings.limits, len(request.responses))
    if (request.prompt is None) == (request.messages is None) or request.messages == []:
        raise bad_request("give either a prompt, or messages that are not empty", "prompt")
    return request.messages or [{"role": "user", "content": request.prompt}]


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(ServingError)
    async def own(_: Request, error: ServingError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # The place and the reason, never the value: it may be a prompt.
        found = [f"{'.'.join(map(str, e['loc'][1:])) or 'body'}: {e['msg']}" for e in error.errors()]
        where = ".".join(map(str, error.errors()[0]["loc"][1:])) or None
        return bad_request("; ".join(dict.fromkeys(found))[:2000], where).response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return JSONResponse(ServingError(error.status_code, message).body, error.status_code, error.headers)
