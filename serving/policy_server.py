"""The policy: Ray's own LLM deployment, with versions.

Ray Serve's `LLMServer` runs vLLM and vLLM's OpenAI layer, so a plain request gets from it what vLLM itself would
answer. It knows no versions, so this class adds them. Serve calls `reconfigure` with a release; the weights are
replaced in place through vLLM's worker extension, while no answer is being written, and proved before the next one
begins. A release that can't be loaded or proved is refused: the one before it stays, and `status` says why.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncGenerator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from ray.serve.metrics import Counter, Gauge
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

from actors.config import PublicationConfig
from actors.publication import (
    ENGINE_TOKENS,
    Canary,
    Publication,
    PublicationError,
    verify_canaries,
    verify_file,
)
from serving import proof, proved
from serving.gate import Gate
from serving.policy_engine import PolicyEngine
from serving.settings import Release, Settings

Kind = Literal["chat", "completions"]
REQUESTS: dict[Kind, Any] = {"chat": ChatCompletionRequest, "completions": CompletionRequest}
LAYERS: dict[Kind, str] = {"chat": "_oai_serving_chat", "completions": "_oai_serving_completion"}
"""vLLM's OpenAI layers, as Ray's engine holds them."""

logger = logging.getLogger("ray.serve")


class ReleaseRefused(RuntimeError):
    """A release that is not served; the message says why."""


class PolicyServer(LLMServer):
    """One replica: one vLLM engine, which serves one release at a time."""

    async def __init__(self, llm_config: LLMConfig, settings: Settings) -> None:  # type: ignore[misc]
        self._settings = settings
        self._gate = Gate()
        self._changing = asyncio.Lock()
        self._scratch = Path(tempfile.mkdtemp(prefix="nashloop-serving-"))
        self._release: Release | None = None
        self._served: Publication | None = None
        self._refused: str | None = None
        self._broken: str | None = None
        self._version_gauge = Gauge("nashloop_policy_version", "Version that a replica serves.")
        self._changes = Counter("nashloop_policy_changes", "Releases, by what became of them.", tag_keys=("outcome",))
        # A killed replica can't end vLLM's processes; its workers see to that (`actors/engine_worker.py`).
        os.environ["NASHLOOP_ENGINE_OWNER"] = str(os.getpid())
        os.environ["NASHLOOP_ENGINE_SCRATCH"] = str(self._scratch)
        await super().__init__(llm_config, engine_cls=PolicyEngine)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve this release. One that can't be served leaves the present one in place.

        Raises: `ReleaseRefused` when a fresh replica can serve neither this, nor what the service proved last, nor the
        policy that it began with.
        """
        async with self._changing:
            try:
                await self._change(Release.model_validate(user_config))
                self._refused = None
            except (ReleaseRefused, ValidationError) as error:
                self._refused = str(error)
                self._changes.inc(tags={"outcome": "refused"})
                logger.error("release refused: %s", self._refused)
                if self._release is None:
                    await self._begin()

    async def answer(self, kind: Kind, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The version that answers, and one whole answer or error."""
        async with self._gate.shared():
            return self.version, await self._whole(kind, body)

    async def stream(self, kind: Kind, body: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """First the version that answers; then the parts of a stream as text, or an error."""
        async with self._gate.shared():
            yield self.version
            async for part in self._parts(kind, body):
                yield part

    async def candidates(self, bodies: Sequence[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
        """Whole chat answers or errors, written at once by one version; that version."""
        async with self._gate.shared():
            answers = await asyncio.gather(*(self._whole("chat", body) for body in bodies))
            return self.version, answers

    @property
    def version(self) -> int:
        """The version that is served."""
        assert self._release is not None, "Serve sends no request before `reconfigure`"
        return self._release.version

    def status(self) -> dict[str, Any]:
        """What is served, and why a newer release is not."""
        release = self._release
        return {
            "version": release and release.version,
            "refused": self._refused,
            "running": self._gate.inside,
        }

    async def check_health(self) -> None:
        """Raises: when vLLM has ended, or holds weights that nothing proves; Serve then replaces the replica."""
        if self._broken:
            raise ReleaseRefused(self._broken)
        await super().check_health()
        if self._release:
            # Ray forgets a gauge that was not set during two of its reports.
            self._version_gauge.set(self._release.version)

    async def _parts(self, kind: Kind, body: dict[str, Any]) -> AsyncGenerator[Any, None]:
        started = False
        try:
            request = REQUESTS[kind].model_validate(body)
            await self._check_length(kind, body)
            stream = await getattr(self, kind)(request)
            async for part in stream:
                # A stream comes in batches of events; an error comes alone, in a batch or not.
                batch = part if isinstance(part, list) else [part]
                if all(isinstance(event, str) for event in batch):
                    yield "".join(batch)
                else:
                    yield batch[-1].model_dump(mode="json")
                started = True
        except Exception as error:
            # vLLM's own server answers more kinds of errors than Ray passes on: those of a chat template, for example.
            answer = create_error_response(error)
            if started or answer.error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            yield answer.model_dump(mode="json")

    async def _check_length(self, kind: Kind, body: dict[str, Any]) -> None:
        """Raises: ValueError for a prompt beyond `limits.prompt_tokens`."""
        allowed = self._settings.limits.prompt_tokens
        if allowed is None:
            return
        # Rendering changes a request, so this is one of its own. (Ray's `tokenize` asks for a layer by a name that vLLM
        # no longer gives it.)
        request = REQUESTS[kind].model_validate(body)
        renderer = getattr(self.engine, LAYERS[kind]).online_renderer
        rendered = await (renderer.render_chat(request) if kind == "chat" else renderer.render_completion(request))
        if isinstance(rendered, ErrorResponse):
            return  # generation gives the same answer
        prompts = rendered[1] if kind == "chat" else rendered
        length = max(len(prompt.get("prompt_token_ids", ())) for prompt in prompts)
        if length > allowed:
            raise ValueError(f"the prompt has {length} tokens with its template, and {allowed} are allowed")

    async def _whole(self, kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        async for part in self._parts(kind, body):
            answer = part
        return answer

    async def _begin(self) -> None:
        first = Release(policy=self._settings.policy, preference=self._settings.preference)
        proved_last = await asyncio.to_thread(proved.recall, self._settings.identity)
        if proved_last and proved_last != first:
            try:
                return await self._change(proved_last)
            except ReleaseRefused as error:
                logger.error("what was served last can't be either: %s", error)
        await self._change(first)

    async def _change(self, release: Release) -> None:
        current = self._release
        if current is None or (release.policy, release.version) != (current.policy, current.version):
            await self._load(release)
        self._release = release
        self._version_gauge.set(release.version)
        self._name_version(release.version)
        self._changes.inc(tags={"outcome": "served"})
        await asyncio.to_thread(proved.remember, self._settings.identity, release)

    async def _load(self, release: Release) -> None:
        """Replace the weights and prove it; on failure put the present ones back, proved too.

        Raises: `ReleaseRefused`.
        """
        file = self._scratch / f"{release.version}-{os.urandom(4).hex()}.safetensors"
        try:
            if self._served and proof.architecture(release.policy) != proof.architecture(self._settings.policy):
                raise ReleaseRefused("it is a model of another shape; start a service of its own for it")
            new = await asyncio.to_thread(
                proof.prepare, release.policy, release.version, self._settings.engine.dtype, file
            )
            async with self._gate.alone(self._settings.limits.deadline + 10.0):
                await self._install(new)
        except Exception as error:
            file.unlink(missing_ok=True)
            raise ReleaseRefused(f"version {release.version} from {release.policy}: {error}") from error
        if self._served:
            Path(self._served.payload).unlink(missing_ok=True)
        self._served = new

    async def _install(self, new: Publication) -> None:
        try:
            await self._replace(new)
        except Exception:
            if self._served:
                try:
                    await self._replace(self._served)
                except Exception as error:
                    self._broken = f"the weights of version {self._served.version} could not be put back: {error}"
            raise

    async def _replace(self, publication: Publication) -> None:
        file = Path(publication.payload)
        await asyncio.to_thread(verify_file, publication.version, file, publication.checksums)
        await self.collective_rpc("load_published", args=(str(file),))
        # Keys and values that the old weights computed are no prefix of anything now.
        await self.reset_prefix_cache()
        found = [await self._next_tokens(canary) for canary in publication.canaries]
        tolerance = PublicationConfig().tolerance_for(self._settings.engine.dtype)
        verify_canaries(publication, tuple(found), tolerance)

    async def _next_tokens(self, canary: Canary) -> dict[int, float]:
        """The engine's most likely next tokens, with their log-probabilities in nats."""
        request = CompletionRequest(
            model=self._settings.name,
            prompt=list(canary),
            max_tokens=1,
            logprobs=ENGINE_TOKENS,
            temperature=1.0,
            seed=0,
            return_tokens_as_token_ids=True,
        )
        answer: Any = await anext(await self.completions(request))
        if not hasattr(answer, "choices"):
            raise PublicationError(f"the engine answers a canary with {answer.model_dump()}")
        (top,) = answer.choices[0].logprobs.top_logprobs
        # The sampled token comes on top of the most likely ones.
        best = sorted(top.items(), key=lambda item: -item[1])[:ENGINE_TOKENS]
        return {int(name.removeprefix("token_id:")): value for name, value in best}

    def _name_version(self, version: int) -> None:
        """Let vLLM's OpenAI layer name the version in `system_fingerprint`."""
        for layer in LAYERS.values():
            getattr(self.engine, layer).system_fingerprint = f"{self._settings.name}-{version}"
