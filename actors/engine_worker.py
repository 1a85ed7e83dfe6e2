"""Code that vLLM runs inside its own worker processes: loading weights in place, and ending with the owner."""

import contextlib
import os
import select
import shutil
import signal
import threading
from typing import TYPE_CHECKING, Any

import safetensors.torch
from vllm.platforms import current_platform

if TYPE_CHECKING:
    from vllm.config import ModelConfig

if current_platform.is_cpu():
    from actors import lora_cpu, norm_cpu, sampling_cpu

    lora_cpu.install()
    norm_cpu.install()
    sampling_cpu.install()


OWNER_VARIABLE = "NASHLOOP_ENGINE_OWNER"
"""Process id of the actor that an engine belongs to."""
SCRATCH_VARIABLE = "NASHLOOP_ENGINE_SCRATCH"
"""The owner's folder for weights on their way."""


def _end_with_owner(owner: int, parent: int) -> None:
    """Clear up once the owner is gone: its folder, vLLM's engine process and this worker."""
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        pass
    else:
        select.select([descriptor], [], [])
    shutil.rmtree(os.environ[SCRATCH_VARIABLE], ignore_errors=True)
    if parent != owner:
        with contextlib.suppress(ProcessLookupError):
            os.kill(parent, signal.SIGKILL)
    os._exit(1)


if OWNER_VARIABLE in os.environ:
    threading.Thread(target=_end_with_owner, args=(int(os.environ[OWNER_VARIABLE]), os.getppid()), daemon=True).start()


class WeightLoader:
    """Extension that vLLM mixes into its worker class (`worker_extension_cls`)."""

    model_runner: Any
    model_config: "ModelConfig"

    def load_published(self, path: str) -> None:
        """Replace all weights by those in the safetensors file at `path`, whose checksums were proved.

        The layer-wise reload is needed because vLLM re-packs linear weights for the device when it loads them: a
        plain `load_weights` finds empty parameters.
        """
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        model = self.model_runner.get_model()
        initialize_layerwise_reload(model)
        model.load_weights(safetensors.torch.load_file(path).items())
        finalize_layerwise_reload(model, self.model_runner.model_config)
