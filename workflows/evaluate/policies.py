"""The policies that are evaluated, as they are named on the command line, and the settings that all share.

A policy is the directory of a run (then its final policy), a model folder, a built-in name or a hub id; `NAME=` before
it gives it another name. Checkpoints of a run become model folders, one a version.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from actors.checkpoints import CHECKPOINTS, STATE_FILE, export_checkpoint
from actors.config import AlignConfig
from actors.models import load_tokenizer, resolve_model
from workflows.answers import Contestant
from workflows.config import ConfigError, load_config, override, parse_config, read_tree


class EvaluationError(ValueError):
    """Policies that can't be evaluated; the message says which, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A policy and the name under which it appears."""

    name: str
    model: str
    checkpoint: Path | None = None
    """The learner's state that `model` is made from, where it is a checkpoint of a run."""

    @property
    def version(self) -> int | None:
        """Of a checkpoint."""
        return int(self.checkpoint.parent.name.partition("-")[2]) if self.checkpoint else None


def parse_policy(text: str) -> Named:
    """`[NAME=]POLICY` as it is written on the command line.

    Raises: `EvaluationError` for a run without a final policy.
    """
    given, equals, rest = text.partition("=")
    place = Path(rest if equals else text)
    if (place / "config.yaml").exists():
        if not (place / "policy").is_dir():
            raise EvaluationError(
                f"the run in {place} has no policy/ yet; finish it, or evaluate its checkpoints with --checkpoints"
            )
        tree = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
        # Whole paths, because engines need not run where this was asked.
        return Named(name=given if equals else str(tree["name"]), model=str((place / "policy").resolve()))
    model = str(place.resolve()) if place.exists() else str(place)
    return Named(name=given if equals else place.name, model=model)


def settings(
    path: str | None, policies: Sequence[str], overrides: Sequence[str], fixed: dict[str, Any], panel: Sequence[str]
) -> AlignConfig:
    """How policies sample, what engines look like and who judges.

    From the file at `path`, else from the first run directory among `policies`, else defaults; then `overrides`
    (`key=value`) and what is `fixed`; `panel` replaces the panel where it is given, and the majority decides it.
    Raises: `ConfigError`.
    """
    runs = [Path(text.partition("=")[2] or text) / "config.yaml" for text in policies]
    source = path or next((run for run in runs if run.exists()), None)
    # Nothing is trained, and still every configuration says for how long.
    tree = override({"loop": {"steps": 1}} | (read_tree(source) if source else {}), overrides)
    for key, value in fixed.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    if panel:
        tree["scoring"] = {**tree.get("scoring", {}), "panel": list(panel), "combine": {"rule": "majority"}}
    if not tree.get("scoring", {}).get("panel"):
        raise ConfigError("nobody judges: name one or more with --scorers module:function, or a file with --config")
    return parse_config(tree)


def check_names(policies: Sequence[Named]) -> None:
    """Raise `EvaluationError` when two policies have one name."""
    names = [policy.name for policy in policies]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EvaluationError(f"several policies are called {', '.join(twice)}; tell them apart with NAME=POLICY")


def contestants(policies: Sequence[Named], config: AlignConfig, folder: Path) -> list[Contestant]:
    """The policies as they take part, their answers kept in `folder`."""
    return [
        Contestant(
            name=policy.name,
            model=policy.model,
            config=config,
            directory=folder,
            prefix=f"{policy.name}-{_identity(policy.model, config)}",
        )
        for policy in policies
    ]


def check_vocabularies(policies: Sequence[Named]) -> None:
    """Raise `EvaluationError` unless all have the first one's tokens: else no KL between them is defined."""
    first, *others = [load_tokenizer(resolve_model(policy.model)).get_vocab() for policy in policies]
    for policy, vocabulary in zip(policies[1:], others, strict=True):
        if vocabulary != first:
            raise EvaluationError(
                f"{policy.name} has another tokenizer than {policies[0].name} ({len(vocabulary)} and {len(first)} "
                "tokens), so that no KL between them is defined; --likelihood-prompts 0 leaves likelihoods out"
            )


def checkpoint_policies(run: Path, folder: Path) -> tuple[Named, list[Named]]:
    """The start of a run, and each of its checkpoints as the model folder under `folder` that it will be.

    Raises: `EvaluationError` when there is no checkpoint.
    """
    if not (run / "config.yaml").exists():
        raise EvaluationError(f"--checkpoints {run} is no run directory: it lacks config.yaml")
    states = sorted((run / CHECKPOINTS).glob(f"version-*/{STATE_FILE}"))
    if not states:
        raise EvaluationError(
            f"the run in {run} has no checkpoint ({CHECKPOINTS}/version-*/{STATE_FILE}); learner.checkpoint_every and "
            "learner.checkpoints_kept of its configuration say how many a run keeps"
        )
    config = load_config(run / "config.yaml")
    found = []
    for state in states:
        model = folder.resolve() / f"{config.name}-{state.parent.name}"
        found.append(Named(name=config.name, model=str(model), checkpoint=state))
    return Named(name="start", model=config.model.name), [replace(p, name=f"{p.name}@{p.version}") for p in found]


def export_checkpoints(run: Path, policies: Sequence[Named]) -> None:
    """Make the model folders of the checkpoints among these policies, where they are missing."""
    config = load_config(run / "config.yaml")
    for policy in policies:
        if policy.checkpoint:
            export_checkpoint(config, policy.checkpoint, Path(policy.model))


def _identity(model: str, config: AlignConfig) -> str:
    """Changes when the model or how it is computed does."""
    folder = Path(model)
    changed = max((file.stat().st_mtime_ns for file in folder.iterdir()), default=0) if folder.is_dir() else 0
    told = f"{model} {changed} {config.model.dtype} {config.rollout.allowed_tokens}"
    return hashlib.blake2b(told.encode(), digest_size=6).hexdigest()
