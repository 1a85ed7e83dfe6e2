"""Run directories as a running `align` job has them, without the job."""

from pathlib import Path

import torch
import yaml

from actors.config import AlignConfig
from actors.policy import Policy
from tests.examples import tree


def make_run(folder: Path, model: Path) -> Path:
    """A run that has not come to a checkpoint yet."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(tree(model__name=str(model), learner__method="lora")))
    return folder


def policy_of(run: Path) -> Policy:
    """The policy that the run began with."""
    config = AlignConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    return Policy(config, config.model.name, torch.device("cpu"))


def checkpoint(run: Path, version: int, scale: float = 0.05) -> dict[str, torch.Tensor]:
    """Write a checkpoint as the learner does, with a random adapter; returns its parameters."""
    generator = torch.Generator().manual_seed(version)
    parameters = {
        name: scale * torch.randn(value.shape, generator=generator)
        for name, value in policy_of(run).parameters().items()
    }
    folder = run / "checkpoints" / f"version-{version:08d}"
    folder.mkdir(parents=True)
    torch.save({"parameters": parameters, "aside": None}, folder / "learner.pt")
    return parameters
