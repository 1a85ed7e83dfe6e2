"""What the name of a policy stands for, and what it comes to stand for while the service runs.

A name is a model folder, a link to one, or a run directory. A run stands for its newest checkpoint, or for its
`policy/` where it keeps none, so that an `align` job is followed while it goes on: a version that it checkpoints
becomes a model folder in the run's `served/`, is proved like any other, and has the run's own number.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from actors.checkpoints import CHECKPOINTS, STATE_FILE, export_checkpoint
from actors.config import AlignConfig
from serving.settings import Release, policy_folder

CONFIG_FILE = "config.yaml"
SERVED = "served"
"""Folder of a run with the model folders of its checkpoints."""
KEPT = 2
"""Model folders that stay there: the newest, and the one before it, which a replica may still be reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model folder or the state of a checkpoint, with time and size of every file that it consists of."""

    place: Path
    files: tuple[str, ...]

    @property
    def is_checkpoint(self) -> bool:
        """Whether it has to become a model folder first."""
        return self.place.name == STATE_FILE


def look(name: str) -> Found | None:
    """What a name stands for now; none while there is nothing.

    Two looks are equal exactly when nothing was written or exchanged between them.
    """
    place = Path(name).expanduser().resolve()
    states = sorted((place / CHECKPOINTS).glob(f"version-*/{STATE_FILE}"))
    if not states:
        place = Path(policy_folder(str(place)))
    try:
        files = [states[-1]] if states else sorted(file for file in place.iterdir() if file.is_file())
        stats = tuple(f"{file.name} {file.stat().st_mtime_ns} {file.stat().st_size}" for file in files)
    except OSError:
        return None
    return Found(place=states[-1] if states else place, files=stats)


def start_of(name: str) -> str | None:
    """The model from which a run that has no final policy yet began; none for whatever else a name stands for.

    Raises: ValueError for a run directory whose configuration is not that of an `align` run.
    """
    place = Path(name).expanduser()
    if not (place / CONFIG_FILE).exists() or (place / "policy").is_dir():
        return None
    return _config(place).model.name


def release_of(found: Found, version: int, preference: dict[str, float] | float | None) -> Release:
    """The release of what was found: a checkpoint under the run's own number, anything else as `version`.

    Raises: `ModelError`, OSError or RuntimeError for a checkpoint that can't be read.
    """
    if not found.is_checkpoint:
        return Release(policy=str(found.place), version=version, preference=preference)
    run, folder = found.place.parents[2], found.place.parent.name
    model = run / SERVED / folder
    export_checkpoint(_config(run), found.place, model)
    for earlier in sorted(path for path in model.parent.iterdir() if path.name <= folder)[:-KEPT]:
        shutil.rmtree(earlier, ignore_errors=True)
    return Release(policy=str(model), version=int(folder.partition("-")[2]), preference=preference)


def _config(run: Path) -> AlignConfig:
    try:
        return AlignConfig.model_validate(yaml.safe_load((run / CONFIG_FILE).read_text("utf-8")))
    except ValidationError as error:
        raise ValueError(
            f"the run in {run} has no policy/, and none of its checkpoints can be served, since it is no `align` run"
        ) from error
