"""Checkpoints of an `align` run, and the model folders that are made of them."""

import shutil
from pathlib import Path
from typing import BinaryIO

import torch

from actors.config import AlignConfig
from actors.models import check_model_folder, resolve_model
from actors.policy import Policy

CHECKPOINTS = "checkpoints"
STATE_FILE, SNAPSHOT_FILE = "learner.pt", "loop.json"
"""The learner's state and the loop's, which make one checkpoint together."""
INHERITED = "inherited"
"""A checkpoint of another run in a run directory: where a run without checkpoints of its own begins."""
COMMITTED = "checkpoint_manager_snapshot.json"
"""Ray Train's list of the checkpoints that are whole."""


def checkpoint_name(version: int) -> str:
    """The folder of a version's checkpoint."""
    return f"version-{version:08d}"


def committed_checkpoint(run: Path, version: int) -> Path | None:
    """The checkpoint of a version, None before it is whole and after it was removed to make room."""
    listed = run / CHECKPOINTS / COMMITTED
    name = checkpoint_name(version)
    if not listed.exists() or f'"{name}"' not in listed.read_text(encoding="utf-8"):
        return None
    return run / CHECKPOINTS / name


def export_checkpoint(config: AlignConfig, state: Path | BinaryIO, model: Path) -> None:
    """Write the policy of a checkpoint as a model folder, whole or not at all; `state` may be an open file."""
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
