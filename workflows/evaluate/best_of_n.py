"""Best of n by the members of an ensemble and by rules over them, as gold scorers see what is chosen:

    python -m workflows.evaluate.best_of_n runs/gold/pool.parquet --members runs/proxies/model-* \\
        --gold workflows.judges:warmth --output runs/gold/best-of-n

The answers are those of one policy (`workflows.sample`). The last `--opponents` to each prompt stand for this policy;
what a choice among the others is worth is its win rate against them by the gold scorers. Every n is estimated from the
same answers without bias (`algorithms.best_of_n`), on the members' rewards with mean 0 and variance 1 over all answers.
Leaves `best_of_n.json` and `best_of_n.png`.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from actors.models import ModelError
from actors.records import SCHEMA, Group, from_arrow
from actors.scorer import Panel, Rejection, ScorerError
from actors.scorers.config import ScoringConfig
from algorithms.best_of_n import best_of_n, kl_of_best_of_n
from algorithms.ensembles import Standardisation, mean, uncertainty_weighted, worst_case
from algorithms.intervals import mean_interval
from algorithms.preference import FloatArray
from workflows.drawing import COLOURS, MUTED, STYLE, finish, panels
from workflows.evaluate.policies import EvaluationError
from workflows.run_directory import environment

SINGLE, MEAN, WORST, UNCERTAINTY = "one member", "mean", "worst case", "uncertainty"
COLOUR_OF = dict(zip((SINGLE, MEAN, WORST, UNCERTAINTY), COLOURS, strict=False))
"""As in `workflows.evaluate.over_optimisation` for settings in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A answers to each of Q prompts: rewards [A, M] by the members, in their own units, and gold's matrix [A, A]."""

    members: tuple[str, ...]
    rewards: Sequence[FloatArray]
    gold: Sequence[FloatArray]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    console = Console()
    try:
        groups = read_pool(Path(arguments.answers), arguments.opponents)
        console.print(f"scoring {len(groups)} prompts, {len(groups[0].candidates)} answers each", highlight=False)
        pool = scored(groups, arguments.members, arguments.gold, arguments.threads)
        found = curves(pool, arguments.opponents, arguments.penalty)
    except (EvaluationError, ModelError, ScorerError) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    counts = {"prompts": len(groups), "candidates": len(groups[0].candidates) - arguments.opponents}
    summary = {"arguments": vars(arguments), **environment(), "members": pool.members, **counts, "curves": found}
    (output / "best_of_n.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    with matplotlib.rc_context({**STYLE, "figure.facecolor": "white"}):
        draw(found).savefig(output / "best_of_n.png", dpi=120)
    console.print(table(found))
    return 0


def read_pool(path: Path, opponents: int) -> list[Group]:
    """The groups of a file of answers.

    Raises: `EvaluationError` for a file that can't be read, or has no answers to choose among.
    """
    try:
        groups = from_arrow(pq.read_table(path, schema=SCHEMA))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is no file of answers, as workflows.sample writes it: {error}") from None
    sizes = {len(group.candidates) for group in groups}
    if opponents < 1 or len(sizes) != 1 or min(sizes) < opponents + 2:
        raise EvaluationError(
            f"{path} holds {sorted(sizes) or 'no'} answers to a prompt; beside --opponents {opponents}, at least 1, "
            "there have to be two or more to choose among, for all prompts as many"
        )
    return groups


def scored(groups: Sequence[Group], members: Sequence[str], gold: Sequence[str], threads: int = 1) -> Pool:
    """Rewards of all answers by each member, a model or `module:function`, and the verdicts of the gold scorers.

    Raises: `EvaluationError` with the reason why a prompt can't be scored; `ModelError`, `ScorerError`.
    """
    import torch

    torch.set_num_threads(threads)
    entries = [{"reward": name} if ":" in name else {"model": name} for name in members]
    ensemble = Panel(ScoringConfig.model_validate({"panel": entries, "combine": "mean"}))
    judges = Panel(ScoringConfig.model_validate({"panel": list(gold), "truncation_penalty": 0}))
    rewards, matrices = [], []
    for group in groups:
        try:
            found = ensemble.rewards(group.messages, [candidate.text for candidate in group.candidates])
            matrices.append(judges.matrix(group.messages, group.candidates))
        except Rejection as rejection:
            raise EvaluationError(f"the answers to prompt {group.index} can't be scored: {rejection}") from None
        assert found is not None  # a rule of rewards has no other members
        rewards.append(found)
    return Pool(members=ensemble.names, rewards=rewards, gold=matrices)


def curves(pool: Pool, opponents: int, penalty: float) -> dict[str, Any]:
    """What best of n is worth, by who chooses: each member, `one member` as the mean over them, and the rules.

    Each: `curve`, a row an n with `kl` in nats and intervals over prompts of `gold`, `proxy` and, paired,
    `over_one_member`; `peak`, the n at which gold is highest; and `last_minus_peak`, paired, what is lost after it.
    Raises: `EvaluationError` for a member that tells no answers apart.
    """
    try:
        scale = Standardisation.of(np.concatenate(pool.rewards))
    except ValueError as error:
        raise EvaluationError(
            f"{', '.join(pool.members)} can't be brought to one scale: {error}; leave it out"
        ) from None
    liked = [scale.apply(rewards)[:-opponents] for rewards in pool.rewards]
    worth = [matrix[:-opponents, -opponents:].mean(axis=1) for matrix in pool.gold]
    sizes = _sizes(len(worth[0]))
    rules: dict[str, Callable[[FloatArray], FloatArray]] = {
        **{name: partial(np.take, indices=place, axis=1) for place, name in enumerate(pool.members)},
        MEAN: mean,
        WORST: worst_case,
        UNCERTAINTY: partial(uncertainty_weighted, penalty=penalty),
    }
    values = {name: _values([rule(rewards) for rewards in liked], worth, sizes) for name, rule in rules.items()}
    single = np.mean([values[name] for name in pool.members], axis=0)
    return {name: _curve(found, single, sizes) for name, found in {SINGLE: single, **values}.items()}


def _sizes(count: int) -> list[int]:
    return sorted({*(2**power for power in range(count.bit_length()) if 2**power <= count), count})


def _values(liked: Sequence[FloatArray], worth: Sequence[FloatArray], sizes: Sequence[int]) -> FloatArray:
    """Gold and proxy value of best of n on each prompt, [2, S, Q]."""
    return np.array(
        [
            [[best_of_n(own, other, n) for own, other in zip(liked, target, strict=True)] for n in sizes]
            for target in (worth, liked)
        ]
    )


def _curve(values: FloatArray, single: FloatArray, sizes: Sequence[int]) -> dict[str, Any]:
    gold, proxy = values
    rows = [
        {
            "n": n,
            "kl": kl_of_best_of_n(n),
            "gold": asdict(mean_interval(gold[place])),
            "proxy": asdict(mean_interval(proxy[place])),
            "over_one_member": asdict(mean_interval(gold[place] - single[0, place])),
        }
        for place, n in enumerate(sizes)
    ]
    peak = int(gold.mean(axis=1).argmax())
    return {"curve": rows, "peak": sizes[peak], "last_minus_peak": asdict(mean_interval(gold[-1] - gold[peak]))}


def draw(found: Mapping[str, Any]) -> Figure:
    """Gold and proxy against the square root of the KL; members pale, the rules with their intervals."""
    figure, axes = panels(2, height=4.0)
    for ax, kind, unit in zip(
        axes, ("gold", "proxy"), ("gold win rate", "own reward, start's deviations"), strict=True
    ):
        for name, curve in found.items():
            rows = curve["curve"]
            x = np.sqrt([row["kl"] for row in rows])
            middle, low, high = (np.array([row[kind][end] for row in rows]) for end in ("mean", "low", "high"))
            if name not in COLOUR_OF:
                ax.plot(x, middle, color=COLOUR_OF[SINGLE], alpha=0.35, linewidth=0.8)
                continue
            ax.fill_between(x, low, high, color=COLOUR_OF[name], alpha=0.1, linewidth=0)
            ax.plot(x, middle, color=COLOUR_OF[name], marker="o", markersize=4, label=name)
        finish(ax, f"Best of n: {kind}", "square root of the KL, nats", unit)
    axes[0].axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
    for ax in axes:
        ax.set_title(ax.get_title("left"), pad=22)
    return figure


def table(found: Mapping[str, Any]) -> Table:
    """The rules at the largest n."""
    n = found[SINGLE]["curve"][-1]["n"]
    result = Table(title=f"Best of {n}")
    for heading in ("chosen by", "gold win rate, 95% interval", "over one member", "best n", "last minus best"):
        # A figure may go over two lines on a narrow terminal; a name may not be cut.
        result.add_column(heading, no_wrap=heading == "chosen by")
    for name, curve in found.items():
        last = curve["curve"][-1]
        figures = (last["gold"], last["over_one_member"])
        gold, over = (f"{f['mean']:.3f} ({f['low']:.3f} to {f['high']:.3f})" for f in figures)
        fall = curve["last_minus_peak"]
        result.add_row(
            name, gold, over, str(curve["peak"]), f"{fall['mean']:.3f} ({fall['low']:.3f} to {fall['high']:.3f})"
        )
    return result


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m workflows.evaluate.best_of_n",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("answers", help="Parquet file that workflows.sample wrote")
    result.add_argument(
        "--members", nargs="+", required=True, metavar="MODEL", help="reward models, or module:function"
    )
    result.add_argument(
        "--gold", nargs="+", required=True, metavar="MODULE:FUNCTION", help="judges; the majority decides"
    )
    result.add_argument("--opponents", type=int, default=16, help="answers to each prompt that are not chosen among")
    result.add_argument("--penalty", type=float, default=0.5, help="of the variance, for the rule `uncertainty`")
    result.add_argument("--threads", type=int, default=1, help="of the models, on CPU")
    result.add_argument("--output", required=True, help="folder of what is written")
    return result


if __name__ == "__main__":
    sys.exit(main())
