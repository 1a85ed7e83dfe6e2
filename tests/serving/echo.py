"""A policy that is a function: it answers what a request says, so that the application can be tested alone.

A user's text may begin with `sleep`, `lose`, `break` or `refuse`; otherwise `write(prompt, seed)` is the answer, which
the token limit has cut where it ends with a dash.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Literal

import httpx

from serving import schema
from serving.errors import lost
from serving.http import create_app
from serving.metrics import Metrics
from serving.prompts import Messages
from serving.scoring import Comparisons, Rewards, Scorers
from serving.selecting import Body, Selector
from serving.settings import Settings

SCORERS = {"warmth": "tests.serving.scorers:warmth", "length": "tests.serving.scorers:length"}
JUDGE = "tests.serving.scorers:longer"


class Echo:
    """Implements `serving.http.Service`; `write(prompt, seed)` is what it answers."""

    def __init__(self, settings: Settings, write: Callable[[str, int], str] = lambda prompt, seed: prompt) -> None:
        self._scorers = Scorers(settings.scorers, settings.judge)
        self._write = write
        self.asked: list[Body] = []
        self.cancelled = 0

    async def answer(self, kind: Literal["chat", "completions"], body: Body) -> tuple[int, Body]:
        return 7, await self._answer(body)

    async def stream(self, kind: Literal["chat", "completions"], body: Body) -> AsyncGenerator[Any, None]:
        yield 7
        whole = await self._answer(body)
        if "error" in whole:
            yield whole
            return
        for letter in whole["choices"][0]["message"]["content"]:
            yield f"data: {json.dumps({'choices': [{'delta': {'content': letter}}]})}\n\n"
        yield "data: [DONE]\n\n"

    async def candidates(self, bodies: Sequence[Body]) -> tuple[int, list[Body]]:
        return 7, list(await asyncio.gather(*(self._answer(body) for body in bodies)))

    def rewards(self, messages: Messages, answers: list[str]) -> Awaitable[Rewards]:
        return self._scorers.rewards(messages, answers)

    def compare(self, messages: Messages, answers: list[str]) -> Awaitable[Comparisons]:
        return self._scorers.compare(messages, answers)

    async def status(self) -> schema.Status:
        return schema.Status(ready=True, version=7)

    async def _answer(self, body: Body) -> Body:
        self.asked.append(body)
        prompt = str(body["messages"][-1].get("content") if "messages" in body else body.get("prompt"))
        if prompt.startswith("refuse"):
            return {"error": {"message": "longer than the context", "type": "BadRequestError", "code": 400}}
        if prompt.startswith("break"):
            raise RuntimeError(f"unforeseen, and it quotes {prompt}")
        if prompt.startswith("lose"):
            raise lost()
        if prompt.startswith("sleep"):
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        text = self._write(prompt, body.get("seed", 0))
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "length" if text.endswith("-") else "stop"}
        usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
        return {"id": "x", "choices": [choice], "usage": usage}


def settings(**given: Any) -> Settings:
    """Settings with two scorers and a judge, open to everybody unless keys are given."""
    fixed = {"policy": "echo", "scorers": SCORERS, "judge": JUDGE, "without_keys": "keys" not in given}
    return Settings.model_validate(fixed | given)


def client(of: Settings, service: Echo | None = None) -> httpx.AsyncClient:
    """A client of the application in this process."""
    service, metrics = service or Echo(of), Metrics()
    app = create_app(of, service, Selector(of, service, metrics), metrics)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def chat(text: str = "hello", **more: Any) -> Body:
    """A chat request."""
    return {"model": "policy", "messages": [{"role": "user", "content": text}]} | more
