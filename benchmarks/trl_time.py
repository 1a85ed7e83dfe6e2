"""Side by side with TRL 1.16's online DPO: at most half its time to a win rate of 0.70 on held-out prompts.

Model, judge and settings are those of `trl`, but that ours trains on completions that are at most one version old: with
this model the engine's batch is full enough by then, and older ones can only teach less. Evaluation is not counted:
TRL's stops the clock; ours runs beside training, so the version it finds is timed in a run without. The time is that
of the first evaluated version whose win rate reaches 0.70; 64 prompts leave a standard error of 0.06.
"""

from typing import Any

from actors.models import resolve_model
from benchmarks.measure import ratios
from benchmarks.results import Figure
from benchmarks.runs import HELDOUT, first_version_reaching, run_loop, seconds_to_version
from benchmarks.trl import config_of, environment, train_with_trl

TARGET = 0.5
GOAL = 0.70
SEEDS = (0, 1)
HELDOUT_PROMPTS = 64
EVALUATE_EVERY = 6
TRAINING_SECONDS = 600
"""Of TRL, at most."""
STEPS = 72
"""Of ours, at most: what it trains in about that time."""
ETA = 1
"""Of ours."""
EVALUATION: dict[str, Any] = {
    "evaluation": {"every": EVALUATE_EVERY, "prompts": HELDOUT_PROMPTS, "final_prompts": HELDOUT_PROMPTS},
    "data": {"heldout": HELDOUT},
}


def run(quick: bool) -> list[Figure]:
    """For each seed: TRL until it reaches the goal, ours with evaluations, and ours without up to the version found."""
    model, python, goal = resolve_model("smollm2-135m-instruct"), environment(), 0.0 if quick else GOAL
    theirs, ours, notes = [], [], []
    for seed in SEEDS[:1] if quick else SEEDS:
        lines = train_with_trl(
            python, model, True, "--steps", "1000", "--seconds", str(1 if quick else TRAINING_SECONDS),
            "--goal", str(goal), "--evaluate-every", str(EVALUATE_EVERY),
            "--heldout-prompts", str(HELDOUT_PROMPTS), "--seed", str(seed),
        )  # fmt: skip
        evaluations = [line for line in lines if line["kind"] == "evaluation"]
        reached_after = time_to_goal(evaluations, goal)
        theirs.append(evaluations[-1]["training_seconds"] if reached_after is None else reached_after)
        evaluated, seconds = time_of_ours(model, seed, goal, EVALUATE_EVERY if quick else STEPS)
        ours.append(seconds)
        at_least = "" if reached_after is not None else " (not reached)"
        notes.append(f"TRL {_curve(evaluations)}{at_least}; NashLoop {_curve(evaluated)}")
    name = f"time to win rate {goal:g}"
    return [
        Figure(name=f"TRL: {name}", values=tuple(theirs), unit="s"),
        Figure(name=f"NashLoop: {name}", values=tuple(ours), unit="s"),
        Figure(
            name=f"{name}: NashLoop / TRL",
            values=tuple(ratios(ours, theirs)),
            target=TARGET,
            bound="at most",
            note=f"{HELDOUT_PROMPTS} held-out prompts, every {EVALUATE_EVERY} steps; win rates, a seed after the "
            f"other: {' | '.join(notes)}",
        ),
    ]


def time_of_ours(model: str, seed: int, goal: float, steps: int) -> tuple[list[dict[str, Any]], float]:
    """Evaluations of a run up to the goal, and seconds to that version in a run without them.

    They are infinite when no version reaches it.
    """
    evaluated = run_loop(config_of(model, True, steps, EVALUATION | {"seed": seed}, ETA), goal).evaluations
    reached = first_version_reaching(evaluated, goal)
    if reached is None:
        return evaluated, float("inf")
    # Beyond it, so that all of it is steady state: a run that ends no longer generates.
    timed = run_loop(config_of(model, True, reached + ETA + 1, {"seed": seed}, ETA))
    return evaluated, seconds_to_version(timed.events, reached)


def time_to_goal(evaluations: list[dict[str, Any]], goal: float) -> float | None:
    """Training seconds of the first of TRL's evaluations that reaches the goal; none if none does."""
    reached = [line["training_seconds"] for line in evaluations if line["win_rate"]["mean"] >= goal]
    return min(reached, default=None)


def _curve(evaluations: list[dict[str, Any]]) -> str:
    return " ".join(f"{line['version']}:{line['win_rate']['mean']:.2f}" for line in evaluations)
