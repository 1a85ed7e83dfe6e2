"""The ingress: the HTTP application in front of the policy and the scorers, in a deployment of its own."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from serving import schema
from serving.errors import lost, overloaded
from serving.http import create_app
from serving.metrics import Metrics
from serving.prompts import Messages
from serving.scoring import Comparisons, Rewards
from serving.selecting import Body, Selector
from serving.settings import Release, Settings

GONE = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError, TaskCancelledError)
STATUS_SECONDS = 5.0
ATTEMPTS = 3
"""How often an answer is asked for while replicas end and nothing of it was passed on."""


@serve.ingress()
class Ingress:
    """One replica."""

    def __init__(
        self, settings: Settings, policy: DeploymentHandle[Any], scorers: DeploymentHandle[Any] | None
    ) -> None:
        self._policy = policy
        self._scorers = scorers
        self._streaming = policy.options(stream=True)
        self._metrics = Metrics()
        self._settings = settings
        self._selector = Selector(settings, self, self._metrics)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take the default preference of a release."""
        self._selector.preference = Release.model_validate(user_config).preference

    def check_health(self) -> None:
        """Called by Serve every few seconds."""
        self._metrics.refresh()

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """The application that Serve gives the requests to."""
        return create_app(self._settings, self, self._selector, self._metrics)

    async def answer(self, kind: Literal["chat", "completions"], body: Body) -> tuple[int, Body]:
        """A whole answer, and its version."""
        # One call and not a stream of one part: at small models what a request costs besides its tokens is what counts.
        found: tuple[int, Body] = await self._ask(self._policy.answer, kind, body)
        return found

    async def stream(self, kind: Literal["chat", "completions"], body: Body) -> AsyncGenerator[Any, None]:
        """What one replica of the policy answers; another one is asked as long as nothing has been passed on."""
        for attempt in range(1, ATTEMPTS + 1):
            response: Any = self._streaming.stream.remote(kind, body)
            started = False
            try:
                # The version alone promises nothing yet: another replica may have to take over.
                version = await anext(response)
                async for part in response:
                    if not started:
                        yield version
                        started = True
                    yield part
                return
            except BackPressureError:
                raise overloaded(1.0) from None
            except GONE:
                if started or attempt == ATTEMPTS:
                    raise lost() from None
            finally:
                response.cancel()

    async def candidates(self, bodies: Sequence[Body]) -> tuple[int, list[Body]]:
        """Whole answers by one version of one replica."""
        found: tuple[int, list[Body]] = await self._ask(self._policy.candidates, list(bodies))
        return found

    async def rewards(self, messages: Messages, answers: list[str]) -> Rewards:
        """Reward vectors of answers to one conversation."""
        assert self._scorers is not None, "refused before without scorers"
        found: Rewards = await self._ask(self._scorers.rewards, messages, answers)
        return found

    async def compare(self, messages: Messages, answers: list[str]) -> Comparisons:
        """Who of the answers to one conversation is preferred to whom."""
        assert self._scorers is not None, "refused before without a judge"
        found: Comparisons = await self._ask(self._scorers.compare, messages, answers)
        return found

    async def status(self) -> schema.Status:
        """What one replica of the policy says of itself; not ready when none does within some seconds."""
        response: Any = self._policy.status.remote()
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                found = await response
        except (TimeoutError, BackPressureError, *GONE):
            response.cancel()
            return schema.Status(ready=False)
        return schema.Status(ready=True, **found)

    async def _ask(self, method: Any, *arguments: Any) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            response = method.remote(*arguments)
            try:
                return await response
            except BackPressureError:
                raise overloaded(1.0) from None
            except GONE:
                if attempt == ATTEMPTS:
                    raise lost() from None
            except asyncio.CancelledError:
                response.cancel()
                raise
        raise lost()
