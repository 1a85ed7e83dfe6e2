"""Ray's vLLM engine, without a worker process of its own on CPU."""

from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from vllm.platforms import current_platform
from vllm.v1.executor.uniproc_executor import UniProcExecutor


class PolicyEngine(VLLMEngine):
    """On CPU the worker runs in the engine's process, as in the rollout plane (`actors/rollout.py`): a process of its
    own would be waited for by spinning, on a core that it needs.

    On CPU Ray writes its own choice of executor over that of the engine's arguments, hence the override.
    """

    def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
        if current_platform.is_cpu() and config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = UniProcExecutor
        return super()._start_async_llm_engine(arguments, config, placement_group)
