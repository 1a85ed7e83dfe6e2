"""Checkpoints of an `align` run, and the model folders that are made of them."""

import shutil
from pathlib import Path

import torch

from actors.config import AlignConfig
from actors.models import check_model_folder, resolve_model
from actors.policy import Policy

CHECKPOINTS = "checkpoints"
STATE_FILE = "learner.pt"


def export_checkpoint(config: AlignConfig, state: Path, model: Path) -> None:
    """Write the policy of a checkpoint as a model folder, whole or not at all."""
    if model.exists():
        check_model_folder(model)
        return
    policy = Policy(config, resolve_model(config.model.name), torch.device("cpu"))
    saved = torch.load(state, map_location="cpu", weights_only=True)
    # Between two halves of an update the current parameters are the look-ahead's; those set aside are the policy.
    parameters = (saved.get("aside") or saved)["parameters"]
    with torch.no_grad():
        for name, parameter in policy.parameters().items():
            parameter.copy_(parameters[name])
    part = model.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    policy.save(part)
    part.rename(model)
