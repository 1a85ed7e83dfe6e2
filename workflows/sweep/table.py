"""The table of a sweep: one row a trial, as far as it came.

Columns: the run's configuration by dotted key; `trial`, `status` (`complete`, `stopped_early`, `failed`), `censored`,
`reason`, `run_directory`; `model_parameters` and `non_embedding_parameters`; `tokens`, `generated_tokens`, `groups`,
`compute` (FLOP); every metric at its last value; what the run's summary says under `SUMMARISED`; `history.version`,
`history.tokens` and `history.METRIC`, lists over evaluated versions. Only `complete` rows belong into a law: a trial
that was stopped early, by the scheduler or by hand, is censored, and so is one that was changed while it ran, as
`lineage` says.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from actors.config import AlignConfig
from actors.models import ModelError, resolve_model
from workflows.sweep.config import METRICS
from workflows.sweep.trial import Report, history

Status = Literal["complete", "stopped_early", "failed"]
Row = dict[str, Any]

SUMMARISED = (
    *("loop_seconds", "staleness.mean", "staleness.max"),
    *("delay_rule.moved_share", "delay_rule.limit", "delay_rule.delay"),
)
"""Figures of a run's `summary.json` that a row has; None where the run did not come so far or has none."""
FORWARD, BACKWARD = 2.0, 4.0
"""FLOP a parameter and token (Kaplan et al. 2001.08361); a frozen reference costs another forward pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A trial and how it ended."""

    config: AlignConfig
    status: Status
    reason: str = ""
    lineage: tuple[str, ...] = ()
    """Whose copy it went on as, and from which version; settings are those since the last of them."""

    @property
    def run_directory(self) -> Path:
        """Of its run."""
        return Path(self.config.directory) / self.config.name


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write the table, whole or not at all."""
    names = list(dict.fromkeys(name for entry in rows for name in entry))
    columns = {name: _column([entry.get(name) for entry in rows]) for name in names}
    part = path.with_suffix(".part")
    pq.write_table(pa.table(columns), part)
    part.rename(path)


def row(trial: Trial) -> Row:
    """One trial's row."""
    rows = history(trial.run_directory)
    last: Report = rows[-1] if rows else {}
    parameters, embedding = model_size(trial.config.model.name)
    tokens, generated = last.get("tokens", 0.0), last.get("generated_tokens", 0.0)
    return {
        "trial": trial.config.name,
        "status": trial.status,
        "censored": trial.status == "stopped_early" or bool(trial.lineage),
        "reason": trial.reason,
        "lineage": "; ".join(trial.lineage),
        **flattened(trial.config.model_dump(mode="json", exclude={"name", "directory"})),
        "model_parameters": parameters,
        "non_embedding_parameters": parameters - embedding,
        "groups": last.get("groups", 0.0),
        "tokens": tokens,
        "generated_tokens": generated,
        "compute": parameters * ((FORWARD + BACKWARD + FORWARD) * tokens + FORWARD * generated),
        **{name: last.get(name) for name in METRICS},
        **_summarised(trial.run_directory),
        **{f"history.{name}": [entry.get(name) for entry in rows] for name in ("version", "tokens", *METRICS)},
        "run_directory": str(trial.run_directory),
    }


def _summarised(directory: Path) -> Row:
    path = directory / "summary.json"
    summary = flattened(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}
    return {name: summary.get(name) for name in SUMMARISED}


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration tree by dotted key; a list becomes its JSON."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list) else value
    return found


def model_size(name: str) -> tuple[int, int]:
    """Parameters of a model, and how many of them embed tokens or score them; read from the headers of its weights.

    A model that isn't here, such as one of the hub that no trial has loaded yet, counts as (0, 0).
    """
    from safetensors import safe_open

    try:
        folder = Path(resolve_model(name))
    except ModelError:
        return 0, 0
    total = embedding = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as weights:
            names = weights.keys()
            for tensor in names:
                count = math.prod(weights.get_slice(tensor).get_shape())
                total += count
                embedding += count if "embed_tokens" in tensor or "lm_head" in tensor else 0
    return total, embedding


def _column(values: list[Any]) -> "pa.Array":
    """Values of one type, or their texts where trials differ in it."""
    numeric = [value for value in values if value is not None]
    if any(isinstance(value, float) for value in numeric) and all(type(value) in (int, float) for value in numeric):
        return pa.array(values, pa.float64())
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else json.dumps(value) for value in values])
