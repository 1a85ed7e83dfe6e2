"""Who answers a judge's questions: an OpenAI-compatible endpoint, or an engine in the scorer's own process.

Both give the choice of a chat completion as OpenAI's API has it, so that one reading serves both.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from actors.endpoint import CallBudget, Endpoint, EndpointError
from actors.models import load_tokenizer, require_chat_template, resolve_model
from actors.scorers.base import Rejection, ScorerError
from actors.scorers.config import LanguageModelJudgeConfig
from actors.scratch import make_scratch, scratch_root

ROLE = "judge"
TOP_LOGPROBS = 5

Take = Callable[[str, dict[str, Any]], None]
"""Receives a question and the choice that answers it; what it raises ends the asking."""


class JudgeSource(Protocol):
    """Where the answers come from."""

    @property
    def identity(self) -> Any:
        """Everything besides the question that an answer depends on, as JSON."""

    def answer(self, questions: Sequence[str], take: Take) -> None:
        """Give the answer to each question to `take`, as it comes.

        Raises: `Rejection` when one can't be had.
        """


class EndpointSource:
    """A model behind an API; `directory` keeps count of its calls."""

    def __init__(self, config: LanguageModelJudgeConfig, directory: str | None) -> None:
        self._config = config
        # Without a run there is nothing that a budget could outlive.
        folder = Path(directory or tempfile.mkdtemp(prefix="nashloop-judge-"))
        budget = CallBudget(folder / "judge_calls", config.max_calls or 0, ROLE)
        self._endpoint = Endpoint(config, config.llm_judge, str(config.endpoint), budget, ROLE)
        self._runner = asyncio.Runner()

    @property
    def identity(self) -> Any:
        """See `JudgeSource`."""
        return [self._config.endpoint, self._request("")]

    def answer(self, questions: Sequence[str], take: Take) -> None:
        """See `JudgeSource`."""
        try:
            self._runner.run(self._answers(questions, take))
        except EndpointError as error:
            raise Rejection(error.name, str(error)) from error
        except TimeoutError:
            raise Rejection(
                f"{ROLE}_failed",
                f"the judge {self._config.llm_judge} took more than {self._config.group_deadline:g} s for a group "
                "(group_deadline)",
            ) from None

    async def _answers(self, questions: Sequence[str], take: Take) -> None:
        async def ask(question: str) -> None:
            take(question, await self._endpoint.choice(self._request(question)))

        try:
            async with asyncio.timeout(self._config.group_deadline), asyncio.TaskGroup() as tasks:
                for question in questions:
                    tasks.create_task(ask(question))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def _request(self, question: str) -> dict[str, Any]:
        return self._endpoint.request(
            [{"role": "user", "content": question}],
            max_tokens=self._config.max_tokens,
            temperature=0.0,
            logprobs=True,
            top_logprobs=TOP_LOGPROBS,
        )


class EngineSource:
    """A vLLM engine of the scorer's own, which answers all questions about a group as one batch.

    With `max_tokens` 1 nothing but a label can be answered, so there is always a verdict.
    """

    def __init__(self, config: LanguageModelJudgeConfig) -> None:
        from vllm import LLM, SamplingParams
        from vllm.v1.executor.uniproc_executor import UniProcExecutor

        assert config.engine is not None
        engine, folder = config.engine, resolve_model(config.llm_judge)
        self.identity: Any = [config.llm_judge, weights_stamp(folder), config.max_tokens, engine.dtype]
        self._sampling = SamplingParams(
            temperature=0.0,
            max_tokens=config.max_tokens,
            logprobs=TOP_LOGPROBS,
            allowed_token_ids=allowed_tokens(config),
        )
        hardware: dict[str, Any] = (
            {"gpu_memory_utilization": engine.gpu_memory_share, "tensor_parallel_size": engine.gpus}
            if engine.gpus
            # As for the engines of the rollout plane: a worker process of its own would be waited for by spinning.
            else {
                "kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30),
                "distributed_executor_backend": UniProcExecutor,
            }
        )
        # vLLM leaves its sockets behind; here whoever makes the next such folder removes them.
        os.environ["VLLM_RPC_BASE_PATH"] = str(make_scratch(scratch_root()))
        self._llm = LLM(
            model=folder,
            dtype=engine.dtype,
            max_model_len=engine.context,
            max_num_seqs=engine.max_sequences,
            enforce_eager=not engine.gpus,
            logprobs_mode="processed_logprobs",
            disable_log_stats=True,
            **hardware,
        )

    def answer(self, questions: Sequence[str], take: Take) -> None:
        """See `JudgeSource`."""
        from vllm.exceptions import VLLMClientError

        asked = [[{"role": "user", "content": question}] for question in questions]
        try:
            answers = self._llm.chat(asked, self._sampling, use_tqdm=False)
        except VLLMClientError as error:  # a question that is longer than the engine's context
            raise Rejection(f"{ROLE}_failed", f"the judge's engine refuses a question: {error}") from error
        for question, answer in zip(questions, answers, strict=True):
            take(question, _choice(answer.outputs[0]))


def weights_stamp(folder: str) -> list[tuple[str, int, int]]:
    """Name, bytes and time of each weight file, so that other weights under the same name are another judge."""
    found = sorted(path for path in Path(folder).glob("*") if path.suffix in (".safetensors", ".bin"))
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in found]


def allowed_tokens(config: LanguageModelJudgeConfig) -> list[int] | None:
    """Tokens that an engine's judge may answer with; none where any text may come before the verdict.

    Raises: `ModelError` for a model that is missing or has no chat template, `ScorerError` for labels of many tokens.
    """
    tokenizer = load_tokenizer(resolve_model(config.llm_judge))
    require_chat_template(tokenizer)
    if config.max_tokens > 1:
        return None
    labels = (*config.labels, config.tie)
    ids = [tokenizer.encode(label, add_special_tokens=False) for label in labels]
    if any(len(tokens) != 1 for tokens in ids):
        raise ScorerError(
            f"labels {list(labels)} are the tokens {ids} of this judge; with max_tokens 1 each has to be one token"
        )
    return [tokens[0] for tokens in ids]


def _choice(output: Any) -> dict[str, Any]:
    """What vLLM generated as OpenAI's API has it."""
    content = [
        {
            "token": place[token].decoded_token or "",
            "top_logprobs": [
                {"token": entry.decoded_token or "", "logprob": entry.logprob} for entry in place.values()
            ],
        }
        for token, place in zip(output.token_ids, output.logprobs, strict=True)
    ]
    return {"message": {"content": output.text}, "logprobs": {"content": content}}
