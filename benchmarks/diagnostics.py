"""Diagnostics beside the loop slow it by at most 5%: steps per second with measurements against without.

A Llama of 7 million parameters goes through `align()` at eta = 2 on as many busy processes as there are cores, with a
measurement of KL, entropy and top tokens from every second checkpoint, and with none; runs take turns. Both write the
same checkpoints. Ray's workers keep the lowered priority that they have in any run, which is the harder case for what
runs beside them. Steady state leaves out the first versions and the last ones.
"""

import os
import tempfile
from pathlib import Path

from actors.config import AlignConfig
from benchmarks.measure import ratios, take_turns
from benchmarks.models import make_llama
from benchmarks.results import Figure
from benchmarks.runs import configuration, run_loop, steady_state

TARGET = 0.95
ETA = 2
WARM_UP = 4
RUN_DOWN = ETA + 1
CHECKPOINT_EVERY = 5
MEASURE_EVERY = 10
RAY_NICENESS = "15"
"""Ray's own default."""


def run(quick: bool) -> list[Figure]:
    """With and without, in turns."""
    os.environ.update(RAY_worker_niceness=RAY_NICENESS)
    steps = 24 if quick else 44
    with tempfile.TemporaryDirectory(prefix="nashloop-benchmark-") as folder:
        model = make_llama(Path(folder) / "llama", layers=6, vocabulary=8192)
        measurements: list[float] = []

        def measure(every: int) -> float:
            done = run_loop(_config(model, steps, every))
            if every:
                measurements.append(float(len(done.diagnostics)))
            state = steady_state(done.steps, WARM_UP, steps - RUN_DOWN)
            return (steps - RUN_DOWN - WARM_UP) / state.wall

        rates = take_turns(
            {"with": lambda _: measure(MEASURE_EVERY), "without": lambda _: measure(0)}, 1 if quick else 2
        )
    return [
        Figure(name="steps, with diagnostics", values=tuple(rates["with"]), unit="/s"),
        Figure(name="steps, without", values=tuple(rates["without"]), unit="/s"),
        Figure(
            name="with / without",
            values=tuple(ratios(rates["with"], rates["without"])),
            target=TARGET,
            note=f"every {MEASURE_EVERY} versions of {steps}",
        ),
        Figure(name="measurements of a run", values=tuple(measurements), target=1, note="more than none were taken"),
    ]


def _config(model: Path, steps: int, every: int) -> AlignConfig:
    batch = 16
    return configuration(
        model,
        {
            "model": {"dtype": "bfloat16"},
            "loop": {"steps": steps, "batch": batch, "eta": ETA},
            "rollout": {"max_running": (ETA + 1) * batch, "max_sequences": 20, "kv_cache_gib": 0.5},
            "learner": {"learning_rate": 1e-5, "token_budget": 2048, "checkpoint_every": CHECKPOINT_EVERY},
            "diagnostics": {"every": every},
        },
    )
