"""The loop overlaps: efficiency >= 0.85 in steady state, eta = 2 >= 1.4 x eta = 0, publication < 5% of a step exposed.

A Llama of 7 million parameters goes through `align()` with everything that belongs to a run except evaluation, eta = 0
and eta = 2 in turns. What generation and learning cost is balanced first, by how many sequences the engine decodes
together, which changes nothing for the learner: where one of them dominates, no overlap can gain much. Steady state
leaves out the first versions, and the last ones, for which nothing more is admitted.
"""

import tempfile
from pathlib import Path

from actors.config import AlignConfig
from benchmarks.measure import ratios, take_turns
from benchmarks.models import make_llama
from benchmarks.results import Figure
from benchmarks.runs import SteadyState, configuration, run_loop, steady_state

OVERLAP_TARGET = 0.85
SPEEDUP_TARGET = 1.4
EXPOSED_TARGET = 0.05
ETA = 2
WARM_UP = 4
RUN_DOWN = ETA + 1
BALANCED = (0.8, 1.25)
TRIALS = 4
SEQUENCES = (4, 128)
"""Fewest and most sequences that balancing may let the engine decode together ..."""
FIRST_SEQUENCES = 20
"""... and what it begins with: balanced on two cores of an AMD EPYC."""


def run(quick: bool) -> list[Figure]:
    """Balance, then eta = 0 against eta = 2."""
    with tempfile.TemporaryDirectory(prefix="nashloop-benchmark-") as folder:
        model = make_llama(Path(folder) / "llama", layers=6, vocabulary=8192)
        sequences = _balance(model, 1 if quick else TRIALS)
        states: dict[int, list[SteadyState]] = {0: [], ETA: []}

        def measure(eta: int, _: int) -> float:
            states[eta].append(_measure(_config(model, eta, sequences, steps=12 if quick else 30)))
            return states[eta][-1].completions_per_second

        rates = take_turns(
            {"synchronous": lambda turn: measure(0, turn), "asynchronous": lambda turn: measure(ETA, turn)},
            1 if quick else 2,
        )
    return _figures(rates, states[0], states[ETA], sequences)


def next_sequences(sequences: int, generation: float, learning: float) -> int:
    """A number of sequences decoded together at which generation takes about as long as learning.

    A decoding step of a small model costs about the same for few and for many sequences, so the time of generation
    is nearly inversely proportional to how many it decodes together.
    """
    wanted = round(sequences * generation / learning)
    return min(max(wanted, SEQUENCES[0]), SEQUENCES[1])


def _balance(model: Path, trials: int) -> int:
    sequences = FIRST_SEQUENCES
    for _ in range(trials):
        state = _measure(_config(model, 0, sequences, steps=10))
        if BALANCED[0] <= state.generation / state.learning <= BALANCED[1]:
            break
        sequences = next_sequences(sequences, state.generation, state.learning)
    return sequences


def _measure(config: AlignConfig) -> SteadyState:
    return steady_state(run_loop(config).steps, WARM_UP, config.loop.steps - RUN_DOWN)


def _config(model: Path, eta: int, sequences: int, steps: int) -> AlignConfig:
    batch = 16
    return configuration(
        model,
        {
            "model": {"dtype": "bfloat16"},
            "loop": {"steps": steps, "batch": batch, "eta": eta},
            "rollout": {"max_running": (ETA + 1) * batch, "max_sequences": sequences, "kv_cache_gib": 0.5},
            "learner": {"learning_rate": 1e-5, "token_budget": 2048},
        },
    )


def _figures(
    rates: dict[str, list[float]], synchronous: list[SteadyState], asynchronous: list[SteadyState], sequences: int
) -> list[Figure]:
    balance = tuple(state.generation / state.learning for state in synchronous)
    return [
        Figure(
            name="overlap efficiency, eta = 2",
            values=tuple(state.overlap_efficiency for state in asynchronous),
            target=OVERLAP_TARGET,
            note="max(busy generation, busy learning) / wall",
        ),
        Figure(name="overlap efficiency, eta = 0", values=tuple(state.overlap_efficiency for state in synchronous)),
        Figure(
            name="eta = 2 / eta = 0",
            values=tuple(ratios(rates["asynchronous"], rates["synchronous"])),
            target=SPEEDUP_TARGET,
            note="completions per second",
        ),
        Figure(
            name="generation / learning time at eta = 0",
            values=balance,
            note=f"{sequences} sequences decoded together",
        ),
        Figure(
            name="exposed publication / step",
            values=tuple(state.exposed_seconds / state.step_seconds for state in asynchronous),
            target=EXPOSED_TARGET,
            bound="at most",
        ),
        Figure(name="step, eta = 2", values=tuple(state.step_seconds for state in asynchronous), unit="s"),
        Figure(name="step, eta = 0", values=tuple(state.step_seconds for state in synchronous), unit="s"),
    ]
