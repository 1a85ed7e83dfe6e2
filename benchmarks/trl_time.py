"""Side by side with TRL 1.16's online DPO: at most half its time to a win rate of 0.70 on held-out prompts.

Model, judge and settings are those of `trl`, but that ours trains on completions that are at most one version old: with
this model the engine's batch is full enough by then, and older ones can only teach less. Evaluation is not counted:
TRL's stops the clock; ours runs beside training, so the version it finds is timed in a run without. The time is that
of the first evaluated version whose win rate reaches 0.70; 64 prompts leave a standard error of 0.06.
"""

from typing import Any

from actors.models import resolve_model
from benchmarks.results import Figure
from benchmarks.runs import HELDOUT, Run, first_version_reaching, run_loop, seconds_to_version
from benchmarks.trl import config_of, environment, train_with_trl

TARGET = 0.5
GOAL = 0.70
HELDOUT_PROMPTS = 64
EVALUATE_EVERY = 6
TRAINING_SECONDS = 600
"""Of TRL, at most."""
STEPS = 36
"""Of ours, at most."""
ETA = 1
"""Of ours."""
EVALUATION = {
    "evaluation": {"every": EVALUATE_EVERY, "prompts": HELDOUT_PROMPTS, "final_prompts": HELDOUT_PROMPTS},
    "data": {"heldout": HELDOUT},
}


def run(quick: bool) -> list[Figure]:
    """TRL until it reaches the goal, ours with evaluations, and ours without up to the version that they found."""
    model = resolve_model("smollm2-135m-instruct")
    goal, limit = (0.0, 1) if quick else (GOAL, TRAINING_SECONDS)
    lines = train_with_trl(
        environment(), model, True, "--steps", "1000", "--seconds", str(limit), "--goal", str(goal),
        "--evaluate-every", str(EVALUATE_EVERY), "--heldout-prompts", str(HELDOUT_PROMPTS),
    )  # fmt: skip
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    reached_after = time_to_goal(evaluations, goal)
    theirs = evaluations[-1]["training_seconds"] if reached_after is None else reached_after
    evaluated = run_loop(config_of(model, True, EVALUATE_EVERY if quick else STEPS, EVALUATION, ETA))
    reached = first_version_reaching(evaluated.evaluations, goal)
    ours, note = float("inf"), "not reached"
    if reached is not None:
        # Beyond it, so that all of it is steady state: a run that ends no longer generates.
        timed = run_loop(config_of(model, True, reached + ETA + 1, {}, ETA))
        ours = seconds_to_version(timed.events, reached)
        note = f"version {reached}; {_beside(evaluated, reached)}"
    found = f"step {evaluations[-1]['version']}"
    return [
        Figure(
            name=f"TRL: time to win rate {goal:g}",
            values=(theirs,),
            unit="s",
            note=f"not reached: at least {theirs:.0f} s" if reached_after is None else found,
        ),
        Figure(name=f"NashLoop: time to win rate {goal:g}", values=(ours,), unit="s", note=note),
        Figure(
            name=f"time to win rate {goal:g}: NashLoop / TRL",
            values=(ours / theirs,),
            target=TARGET,
            bound="at most",
            note=f"{HELDOUT_PROMPTS} held-out prompts, every {EVALUATE_EVERY} steps; win rates "
            f"TRL {_curve(evaluations)}; NashLoop {_curve(evaluated.evaluations)}",
        ),
    ]


def time_to_goal(evaluations: list[dict[str, Any]], goal: float) -> float | None:
    """Training seconds of the first of TRL's evaluations that reaches the goal; none if none does."""
    reached = [line["training_seconds"] for line in evaluations if line["win_rate"]["mean"] >= goal]
    return min(reached, default=None)


def _beside(run: Run, version: int) -> str:
    return f"{seconds_to_version(run.events, version):.0f} s with the evaluations beside"


def _curve(evaluations: list[dict[str, Any]]) -> str:
    return " ".join(f"{line['version']}:{line['win_rate']['mean']:.2f}" for line in evaluations)
