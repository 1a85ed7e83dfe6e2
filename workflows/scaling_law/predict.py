"""What fitted laws say about a size, a data set or a schedule not yet tried: YAML, with the intervals in comments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from algorithms.scaling.design import grid, next_measurements
from algorithms.scaling.fit import Fit, Prediction
from algorithms.scaling.law import Factors
from algorithms.schedules import ScheduleKind, learning_rate_factor
from workflows.config import parse_config, read_tree, set_key
from workflows.scaling_law.curves import factors_of
from workflows.scaling_law.groups import SHIFTED
from workflows.scaling_law.table import TableError

KEYS = {"lr": "learner.learning_rate", "beta": "objective.options.beta", "batch": "loop.batch", "eta": "loop.eta"}
"""Keys of a configuration by the columns that other tables have."""
SCHEDULES: tuple[ScheduleKind, ...] = ("constant", "linear", "cosine", "wsd", "rex")
CANDIDATES = 7
"""Values a factor among which the next trials are looked for."""


def next_configuration(fits: Sequence[Fit], at: Mapping[str, float], path: Path, extrapolate: bool) -> str:
    """A configuration with every tuned setting as its law has it at `at`, and the trials worth running next.

    Raises: `ConfigError` for a configuration that can't be run; `TableError`; `ExtrapolationError`.
    """
    tree = read_tree(path)
    resolved = parse_config(tree).model_dump()
    comments = [f"Settings predicted for {_written(at)}; everything else is {path}."]
    for fit in fits:
        if fit.law.name != "step":
            raise TableError(f"the law {fit.law.name} predicts an outcome and no setting: leave out --config")
        key = KEYS.get(fit.law.outcome, fit.law.outcome)
        found = fit.predict(_factors(fit, at), scatter=True, extrapolate=extrapolate)
        low, value, high = _ends(found, SHIFTED.get(fit.law.outcome, 0.0))
        whole = isinstance(_value(resolved, key), int)
        set_key(tree, key, max(round(value), 0) if whole else float(f"{value:.3g}"))
        comments.append(f"{key}: {value:.3g}, 95% interval {low:.3g} to {high:.3g}")
        comments += _worth_running(fit, at, key)
    parse_config(tree)
    return "".join(f"# {line}\n" for line in comments) + yaml.safe_dump(tree, sort_keys=False)


def predictions(fits: Sequence[Fit], at: Mapping[str, float], extrapolate: bool) -> str:
    """Every law's outcome at `at`, one YAML line each, and the measurements worth making next."""
    lines = []
    for fit in fits:
        found = fit.predict(_factors(fit, at), scatter=True, extrapolate=extrapolate)
        low, value, high = _ends(found, SHIFTED.get(fit.law.outcome, 0.0))
        lines.append(f"{fit.law.outcome}: {value:.5g}  # {_written(at)}; 95% interval {low:.5g} to {high:.5g}")
        lines += [f"# {line}" for line in _worth_running(fit, at, None)]
    return "\n".join(lines) + "\n"


def final_losses(fit: Fit, peak: float, steps: int, warmup: int, minimum: float, extrapolate: bool) -> str:
    """The loss at the end of a run of `steps` under each schedule, one YAML line each, the lowest first.

    Raises: `ExtrapolationError` where the sum of rates is far from those that were fitted.
    """
    rows, last = [], np.array([steps - 1.0])
    for kind in SCHEDULES:
        rates = np.array([peak * learning_rate_factor(step, steps, warmup, kind, minimum) for step in range(steps)])
        found = fit.predict(factors_of(fit.law, rates, last, warmup), scatter=True, extrapolate=extrapolate)
        rows.append((float(found.value[0]), float(found.low[0]), float(found.high[0]), kind))
    lines = [f"{kind}: {value:.5g}  # 95% interval {low:.5g} to {high:.5g}" for value, low, high, kind in sorted(rows)]
    return f"# {fit.law.outcome} after {steps} steps, peak rate {peak:g}\n" + "\n".join(lines) + "\n"


def _worth_running(fit: Fit, at: Mapping[str, float], key: str | None) -> list[str]:
    """The trials that would narrow the interval most, none farther than half-way (in logarithms) to the question."""
    target = _factors(fit, at)
    reach = {}
    for name, (low, high) in fit.box.items():
        wanted = float(target[name][0])
        reach[name] = (min(low, (low * wanted) ** 0.5), max(high, (high * wanted) ** 0.5))
    if any(low <= 0.0 for low, _ in reach.values()):
        return []
    found = next_measurements(fit, target, grid(reach, CANDIDATES))
    lines = ["Measured next, one after another, these would narrow that interval of the law most:"]
    for proposal in found:
        place = _written(proposal.factors)
        if key:
            there = fit.predict(_factors(fit, proposal.factors), scatter=True, extrapolate=True)
            low, _, high = _ends(there, SHIFTED.get(fit.law.outcome, 0.0))
            place += f", {key} from {low:.3g} to {high:.3g}"
        lines.append(f"  {place}: by {proposal.shrinkage:.0%}")
    return lines


def _factors(fit: Fit, at: Mapping[str, float]) -> Factors:
    return {name: np.array([at[name]]) for name in fit.law.factors}


def _ends(found: Prediction, shift: float) -> tuple[float, float, float]:
    low, value, high = float(found.low[0]), float(found.value[0]), float(found.high[0])
    return max(low - shift, 0.0) if shift else low, value - shift, high - shift


def _value(tree: Mapping[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _written(at: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:.3g}" for name, value in at.items())
