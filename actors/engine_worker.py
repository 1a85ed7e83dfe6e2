"""Code that vLLM runs inside its own worker processes: loading published weights in place."""

from typing import TYPE_CHECKING, Any

import safetensors.torch

from actors.publication import verify_checksums

if TYPE_CHECKING:
    from vllm.config import ModelConfig


class WeightLoader:
    """Extension that vLLM mixes into its worker class (`worker_extension_cls`)."""

    model_runner: Any
    model_config: "ModelConfig"

    def load_published(self, path: str, version: int, checksums: dict[str, int]) -> None:
        """Replace all weights by those in the safetensors file at `path`, after proving their checksums.

        The layer-wise reload is needed because vLLM re-packs linear weights for the device when it loads them: a
        plain `load_weights` finds empty parameters.
        """
        from vllm.model_executor.model_loader.reload import (
            finalize_layerwise_reload,
            initialize_layerwise_reload,
        )

        tensors = safetensors.torch.load_file(path)
        verify_checksums(version, tensors, checksums)
        model = self.model_runner.get_model()
        initialize_layerwise_reload(model)
        model.load_weights(tensors.items())
        finalize_layerwise_reload(model, self.model_runner.model_config)
