"""Ray's vLLM engine, without a worker process of its own on CPU."""

from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from vllm.platforms import current_platform
from vllm.v1.executor.uniproc_executor import UniProcExecutor


class PolicyEngine(VLLMEngine):
    """As for the engines of the rollout plane (`actors/rollout.py`): on CPU the engine waits for a worker process by
    spinning, on a core that the worker needs, and the second process doubles the start-up.

    Ray sets the executor itself and refuses another in the engine's arguments, hence the override.
    """

    def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
        if current_platform.is_cpu() and config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = UniProcExecutor
        return super()._start_async_llm_engine(arguments, config, placement_group)
