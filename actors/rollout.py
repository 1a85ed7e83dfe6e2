"""Rollout plane: one vLLM engine in a Ray actor, and the named policies that it serves.

Candidates are sampled with a seed of their own, so a re-issued group is the same group. New weights are loaded while
requests are half generated: generation pauses, keeps its requests, and goes on; every token knows its version. With
LoRA one engine serves every policy, each as an adapter and the reference as the bare model; with full weights an
engine serves one.
"""

import asyncio
import contextlib
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from actors.config import AlignConfig
from actors.pool import Broken
from actors.publication import (
    ENGINE_TOKENS,
    Canary,
    LoadReport,
    Publication,
    build_transport,
    verify_canaries,
    verify_file,
)
from actors.records import (
    Candidate,
    Group,
    GroupRequest,
    GroupSummary,
    Part,
    Sampling,
    VersionSpan,
    from_arrow,
    summarise,
    to_arrow,
)
from actors.scratch import make_scratch, scratch_root
from algorithms.sampling import FIXED

POLICY = "current"
KEPT_LOADS = 256
"""Loads whose versions an engine remembers; a request spans a few at most."""


def engine_environment(config: AlignConfig) -> dict[str, str]:
    """Environment variables of an engine's process."""
    return vllm_environment(0 if config.rollout.gpus else config.rollout.threads)


def vllm_environment(threads: int) -> dict[str, str]:
    """Environment variables of a process with vLLM in it, on so many threads of a CPU; 0 on GPUs."""
    environment = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if threads:
        # vLLM would pin every engine to core 0; the kernel places single threads better than that.
        environment |= {"OMP_NUM_THREADS": str(threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return environment


def engine_arguments(config: AlignConfig, model_folder: str, policies: Sequence[str] = (POLICY,)) -> dict[str, Any]:
    """Arguments of `vllm.AsyncEngineArgs` for an engine that serves these policies."""
    rollout, learner = config.rollout, config.learner
    published = [policy for policy in policies if policy not in FIXED]
    arguments: dict[str, Any] = {
        "model": model_folder,
        "dtype": config.model.dtype,
        "max_model_len": config.model.context,
        "max_num_seqs": rollout.max_sequences,
        "tensor_parallel_size": rollout.tensor_parallel,
        "enforce_eager": rollout.enforce_eager,
        "enable_prefix_caching": rollout.prefix_caching,
        "logprobs_mode": "processed_logprobs",
        "trust_remote_code": config.model.trust_remote_code,
        "generation_config": "auto",
        "disable_log_stats": True,
        "seed": config.seed,
        "worker_extension_cls": "actors.engine_worker.WeightLoader",
    }
    if rollout.tensor_parallel == 1:
        from vllm.v1.executor.uniproc_executor import UniProcExecutor

        # A worker process of its own would be waited for by spinning, on a core that the learner needs, and would
        # double the start-up. By its name ("uni") vLLM refuses it on CPU; the thread count is in the environment.
        arguments["distributed_executor_backend"] = UniProcExecutor
    if rollout.gpus:
        arguments["gpu_memory_utilization"] = rollout.gpu_memory_share
    else:
        arguments["kv_cache_memory_bytes"] = int(rollout.kv_cache_gib * 2**30)
        # A seeded request whose prompt is cut into chunks ends the engine on CPU (vLLM 0.32 rewinds its generator).
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(4096, config.model.context)
        # The CPU default of 128 tokens is longer than most chat prompts, whose prefix would then never be shared.
        arguments["block_size"] = 32
    if published and learner.method == "lora":
        rank = max(8, learner.lora.rank)
        arguments |= {"enable_lora": True, "max_loras": len(published), "max_lora_rank": rank}
    elif published:
        # With tied embeddings vLLM's reload leaves the old output head in place, without an error.
        arguments["hf_overrides"] = {"tie_word_embeddings": False}
    return arguments


class RolloutEngine:
    """A vLLM engine that answers group requests and takes publications."""

    def __init__(self, name: str, config: AlignConfig, policies: tuple[str, ...] = (POLICY,)) -> None:
        self.name = name
        self._config = config
        self._policies = policies
        lora = config.learner.method == "lora"
        self._adapters = {p: i for i, p in enumerate(policies, start=1) if lora and p not in FIXED}
        self._transport = build_transport(config.publication)
        self._loads: list[dict[str, int]] = [dict.fromkeys(policies, 0)]
        """Version of each policy after each load; vLLM's own version of a token is the load's number."""
        self._forgotten = 0
        self._loading = asyncio.Lock()
        self._scratch = make_scratch(scratch_root())

    def __repr__(self) -> str:
        return f"RolloutEngine({self.name})"

    async def start(self) -> int:
        """Build the engine; returns its process id. Idempotent.

        Raises: `Broken` when vLLM's own processes have ended since.
        """
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from actors.models import load_tokenizer, resolve_model

        if not hasattr(self, "_engine"):
            # A killed actor can neither end vLLM's processes nor remove its folder: they see to both, if they live to.
            os.environ["NASHLOOP_ENGINE_OWNER"] = str(os.getpid())
            os.environ["NASHLOOP_ENGINE_SCRATCH"] = str(self._scratch)
            # vLLM leaves its sockets behind; here they end with the folder.
            os.environ["VLLM_RPC_BASE_PATH"] = str(self._scratch)
            folder = resolve_model(self._config.model.name)
            self._tokenizer = load_tokenizer(folder)
            arguments = engine_arguments(self._config, folder, self._policies)
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        if self._engine.errored:
            raise Broken(f"{self.name}: vLLM's processes have ended")
        return os.getpid()

    @ray.method(num_returns=2)
    async def generate(
        self, request: GroupRequest, earlier: pa.RecordBatch | None = None
    ) -> tuple[GroupSummary, pa.RecordBatch]:
        """Candidates of one group, added to those of `earlier`, which others wrote.

        Returns: what the conductor needs to know, and the group itself as one row of `records.SCHEMA`.
        """
        from actors.models import render_prompt

        prompt_ids = render_prompt(self._tokenizer, request.messages)
        candidates = await asyncio.gather(
            *(self._complete(f"{request.id}-{uuid.uuid4()}", prompt_ids, s, p) for p in request.parts for s in p.seeds)
        )
        group = joined(request, earlier, prompt_ids, candidates, self.name)
        return summarise(group), to_arrow([group])

    async def load(self, *publications: Publication) -> LoadReport:
        """Take published versions, all at once and in place, and prove that they arrived.

        Raises: `PublicationError` when a checksum or the canaries disagree with the learner.
        """
        async with self._loading, self._while_alive():
            began = time.monotonic()
            # In a thread: a large model takes seconds to arrive, in which this process has answers to pass on.
            folders = [await asyncio.to_thread(self._unpack, publication) for publication in publications]
            paused = time.monotonic()
            # Not `pause_generation`: it sleeps 20 ms more, for outputs on their way, whose versions are known by then.
            await self._engine.engine_core.pause_scheduler_async(mode="keep", clear_cache=False)
            try:
                for publication, folder in zip(publications, folders, strict=True):
                    await self._install(publication, folder)
                self._loads.append(self._loads[-1] | {p.policy: p.version for p in publications})
                await self._engine.update_weight_version(str(self._forgotten + len(self._loads) - 1))
            finally:
                await self._engine.resume_generation()
            resumed = time.monotonic()
            self._forgotten += len(self._loads[:-KEPT_LOADS])
            del self._loads[:-KEPT_LOADS]
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
            proofs = [await self._prove(publication) for publication in publications]
        return LoadReport(
            version=max(publication.version for publication in publications),
            engine=self.name,
            seconds=time.monotonic() - began,
            paused_seconds=resumed - paused,
            mismatch_kl=max(kl for kl, _ in proofs),
            mismatch_max_abs=max(largest for _, largest in proofs),
        )

    async def stop(self) -> None:
        """End the engine's processes and remove its scratch folder."""
        if hasattr(self, "_engine"):
            self._engine.shutdown()
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def _install(self, publication: Publication, folder: Path) -> None:
        if publication.adapter_config is None:
            await self._engine.collective_rpc("load_published", args=(str(folder / "model.safetensors"),))
        else:
            await self._engine.add_lora(self._adapter(publication.policy, folder))

    async def _prove(self, publication: Publication) -> tuple[float, float]:
        found = await asyncio.gather(*(self._canary(publication.policy, canary) for canary in publication.canaries))
        tolerance = self._config.publication.tolerance_for(self._config.model.dtype)
        return verify_canaries(publication, tuple(found), tolerance)

    def _unpack(self, publication: Publication) -> Path:
        folder = self._scratch / f"{publication.policy}-{publication.version}"
        folder.mkdir(exist_ok=True)
        payload = self._transport.receive(publication.payload)
        file = folder / "model.safetensors"
        if publication.adapter_config is not None:
            (folder / "adapter_config.json").write_text(publication.adapter_config)
            file = folder / "adapter_model.safetensors"
        payload.tofile(file)
        verify_file(publication.version, file, publication.checksums)
        return folder

    def _adapter(self, policy: str, folder: Path | None = None) -> Any:
        """vLLM's name of a policy's adapter; none for the bare model."""
        if policy not in self._adapters:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(policy, self._adapters[policy], str(folder or self._scratch), load_inplace=bool(folder))

    async def _complete(self, name: str, prompt_ids: list[int], seed: int, part: Part) -> Candidate:
        sampling = self._sampling(part.sampling, seed)
        output = (await self._generate(name, prompt_ids, sampling, part.policy)).outputs[0]
        return Candidate(
            seed=seed,
            role=part.role,
            policy=part.policy,
            sampling=part.sampling,
            token_ids=np.asarray(output.token_ids, dtype=np.int32),
            logprobs=np.asarray(output.logprobs.logprobs, dtype=np.float32),
            text=str(self._tokenizer.decode(output.token_ids, skip_special_tokens=True)),
            finish_reason=output.finish_reason,
            versions=self._spans(part.policy, output),
        )

    def _spans(self, policy: str, output: Any) -> tuple[VersionSpan, ...]:
        """Which version of a policy sampled which tokens."""
        if policy in FIXED:
            return (VersionSpan(version=0, start=0, end=len(output.token_ids)),)
        return tuple(
            VersionSpan(
                version=self._loads[int(span.version) - self._forgotten][policy], start=span.start, end=span.end
            )
            for span in output.weight_versions or ()
        )

    async def _generate(self, name: str, token_ids: Sequence[int], sampling: Any, policy: str) -> Any:
        # The salt keeps prefixes that other weights computed out of new requests.
        salt = f"{policy}-{self._loads[-1].get(policy, 0)}"
        prompt = {"prompt_token_ids": list(token_ids), "cache_salt": salt}
        last = None
        async with self._while_alive():
            async for output in self._engine.generate(prompt, sampling, name, lora_request=self._adapter(policy)):
                last = output
        return last

    @contextlib.asynccontextmanager
    async def _while_alive(self) -> AsyncIterator[None]:
        """Tell errors of the work from the end of vLLM's own processes, which asks for another engine."""
        try:
            yield
        except Broken:
            raise
        except Exception as error:
            if self._engine.errored:
                raise Broken(f"{self.name}: vLLM stopped: {error}") from error
            raise

    async def _canary(self, policy: str, canary: Canary) -> dict[int, float]:
        """The engine's most likely next tokens, with their log-probabilities in nats."""
        from vllm import SamplingParams

        # More than there are end the engine; so do `prompt_logprobs` with LoRA (vLLM 0.32 on CPU).
        count = min(ENGINE_TOKENS, self._engine.model_config.get_vocab_size())
        sampling = SamplingParams(max_tokens=1, logprobs=count, temperature=1.0, seed=0)
        output = await self._generate(f"canary-{uuid.uuid4()}", canary, sampling, policy)
        entries = sorted(output.outputs[0].logprobs[0].items(), key=lambda item: item[1].rank)
        return {token: entry.logprob for token, entry in entries[:count]}

    def _sampling(self, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            # The sampled token's alone, in one list, and no text: that is made once, of the whole answer, instead of
            # at every token.
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            allowed_token_ids=list(allowed) if (allowed := self._config.rollout.allowed_tokens) else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def joined(
    request: GroupRequest,
    earlier: pa.RecordBatch | None,
    prompt_ids: Sequence[int],
    candidates: Sequence[Candidate],
    sampler: str,
) -> Group:
    """The group of `request` with new candidates, behind those that `earlier` brings."""
    if earlier is not None:
        return from_arrow(earlier)[0].joined(candidates, sampler)
    return Group(
        id=request.id,
        index=request.index,
        epoch=request.epoch,
        version=request.version,
        messages=request.messages,
        prompt_ids=np.asarray(prompt_ids, dtype=np.int32),
        candidates=tuple(candidates),
        engine=sampler,
    )
