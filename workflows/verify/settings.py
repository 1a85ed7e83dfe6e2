"""How each objective plays a game: its options, its learning rate, and the exact update that it approximates.

Contract: every objective is set up to do its honest best. The optimizer takes plain gradient steps (`FLAT`), so that a
step shrinks with the gradient as it does in theory, and the learning rates give all objectives mirror steps of a like
size: they are BASE_RATE over the slope of the objective's loss at the start.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.config import AlignConfig
from algorithms.games.stability import Method
from algorithms.objective import Objective, build_objective
from workflows.config import parse_config
from workflows.verify.game import Match
from workflows.verify.measurement import Pull

BASE_RATE = 6e-3
"""Gives mirror steps eta between 1/2 and 1 on these games, at the beginning of the schedule."""
FLAT = 1e3
"""Adam's epsilon, far above any gradient here: updates are learning_rate / FLAT times the gradient. Without momentum,
which would age the opponents by betas[0] / (1 - betas[0]) updates."""
PAIRS, OPPONENTS, GROUP = 6, 8, 8
"""Candidates that form pairs and opponents, where they are apart; candidates, where they are the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One entry of the table."""

    objective: str
    slope: Callable[[float], float]
    """-d loss / d margin at margin zero for a pair whose win rates differ by one, halved; a function of beta."""
    rate: float = 1.0
    """Learning rate as a multiple of BASE_RATE / slope."""
    options: Mapping[str, Any] = field(default_factory=dict)
    pull: Pull = "reference"
    exact: str | None = None
    """Name in `algorithms.games.registry` of the exact update."""


def _regression(beta: float) -> float:
    return 1.0 / beta


def _constant(value: float) -> Callable[[float], float]:
    return lambda beta: value


def _logistic(beta: float) -> float:
    return beta / 2.0


_APART = {"candidates": PAIRS, "opponents": OPPONENTS}
_TOGETHER = {"candidates": GROUP}
_UNPULLED: dict[str, Any] = {"candidates": GROUP, "step_size": 1.0}
_INPO = {"step_size": 3.0}

SETTINGS: dict[str, Setting] = {
    "egpo": Setting(objective="egpo", options=_APART, slope=_regression, exact="egpo"),
    "past_egpo": Setting(objective="past_egpo", options=_APART, slope=_regression, exact="past_extragradient"),
    "optimistic_egpo": Setting(
        objective="optimistic_egpo", options=_APART, slope=_regression, exact="past_extragradient"
    ),
    "online_ipo": Setting(objective="online_ipo", options=_APART, slope=_regression, exact="online_ipo"),
    "online_ipo_two_sample": Setting(
        objective="online_ipo", options=_TOGETHER | {"win_rates": "labels"}, slope=_regression, exact="online_ipo"
    ),
    "inpo": Setting(objective="inpo", options=_TOGETHER | _INPO, slope=_constant(3.0), exact="inpo"),
    # As many completions a group as the three-sample form, all of them in pairs.
    "inpo_equal_data": Setting(
        objective="inpo", options=_INPO | {"candidates": PAIRS + OPPONENTS}, slope=_constant(3.0), exact="inpo"
    ),
    "inpo_three_sample": Setting(
        objective="inpo", options=_APART | _INPO | {"win_rates": "opponents"}, slope=_constant(3.0), exact="inpo"
    ),
    "copg": Setting(objective="copg", options=_APART, slope=lambda beta: beta, exact="online_ipo"),
    "nash_md": Setting(objective="nash_md", options=_APART, slope=_constant(0.25), exact="nash_md"),
    "sppo": Setting(
        objective="sppo", options=_UNPULLED | {"pair_choice": "all"}, slope=_constant(0.25), pull="none", exact="sppo"
    ),
    "dno": Setting(objective="dno", options=_UNPULLED, slope=_constant(0.125), pull="none", exact="dno"),
    "spo": Setting(objective="spo", options=_TOGETHER, slope=_constant(0.25), pull="none", exact="spo"),
    "onpo": Setting(objective="onpo", options=_UNPULLED, slope=_constant(1.0), pull="none", exact="onpo"),
    "online_dpo": Setting(
        objective="online_dpo",
        options=_TOGETHER | {"pair_choice": "all", "targets": "soft"},
        slope=_logistic,
        # The logistic loss flattens where it is right: with 1 it climbs on transitive games at a third of the speed.
        rate=3.0,
        exact="online_dpo",
    ),
    "dno_prct": Setting(
        objective="dno_prct", options=_UNPULLED, slope=_constant(0.5), pull="none", exact="iterative_dpo"
    ),
    "xpo": Setting(objective="xpo", slope=_logistic),
}
"""By the name that `--objective` takes: the registry's names, and their other forms."""


def configuration(
    setting: Setting,
    match: Match,
    *,
    name: str,
    folder: Path,
    directory: Path,
    seed: int,
    steps: int,
    batch: int,
    eta: int,
    labels: str = "probability",
    flip_rate: float = 0.0,
) -> AlignConfig:
    """The configuration of one run on the game in `folder`, in the run directory `directory/name`.

    All objectives get the same number of versions, of data and of gradients: `steps`.
    """
    beta = match.games[0].beta
    options = options_on(setting, beta=beta, eta=eta, labels=labels)
    return parse_config(
        {
            "name": name,
            "directory": str(directory),
            "seed": seed,
            "model": {"name": str(folder / "model"), "dtype": "float32", "context": 16},
            "data": {"prompts": str(folder / "prompts.jsonl")},
            "objective": {"name": setting.objective, "options": options},
            "loop": {"steps": steps, "batch": batch, "eta": eta},
            "rollout": {
                "max_new_tokens": 1,
                "allowed_tokens": list(match.answers),
                "max_running": (eta + 2) * batch,
                "max_sequences": 256,
                "kv_cache_gib": 0.1,
                "cpus": 0,
            },
            "scoring": {
                "panel": [{"judge": "workflows.verify.game:judge", "options": {"game": str(folder / "game.json")}}],
                "labels": labels,
                "flip_rate": flip_rate,
                "truncation_penalty": 0.0,
                "cpus": 0,
            },
            "learner": {
                "method": "full",
                "autocast": False,
                "learning_rate": FLAT * BASE_RATE * setting.rate / setting.slope(beta),
                "epsilon": FLAT,
                "betas": [0.0, 0.99],
                "schedule": "linear",
                "gradient_clip": 1e6,
                "checkpoint_every": 100_000,
            },
            "publication": {"canaries": len(match.games), "record_canaries": True},
        }
    )


def options_on(setting: Setting, *, beta: float, eta: int, labels: str) -> dict[str, Any]:
    """The objective's options on a game of this beta, in a loop of this staleness, with these labels.

    Where pairs are the opponents, their age is allowed what the loop allows: it is what a run is to show.
    """
    options = dict(setting.options)
    plain = objective_of(setting)
    if "beta" in plain.Options.model_fields:
        options["beta"] = beta
    if labels == "sampled" and options.get("targets") == "soft":
        options["targets"] = "hard"
    if eta and all(role.staleness is not None for role in plain.sampling.roles):
        options["opponent_staleness"] = eta
    return options


def objective_of(setting: Setting) -> Objective:
    """The objective with its options of the table."""
    return build_objective(setting.objective, dict(setting.options))


def method_of(setting: Setting) -> Method:
    """Whose stability the delay rule of an objective is: extragradient rules look one update ahead."""
    ahead = objective_of(setting).update.rule != "step" or setting.objective == "optimistic_egpo"
    return "egpo" if ahead else "omd"
