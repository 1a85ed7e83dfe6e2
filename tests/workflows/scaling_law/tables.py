"""Tables with known laws, as a sweep or anybody else would write them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

C, A, B = 30.0, -0.5, -0.1
"""Of the true law of the learning rate, c N^a D^b."""
SIZES, TOKENS = (1e5, 3e5, 1e6, 3e6, 1e7), (3e6, 3e7)
NOISE = 2e-3


def best_rate(N: float, D: float) -> float:
    """By the true law."""
    return float(C * N**A * D**B)


def sweep_rows(sizes: Sequence[float] = SIZES, span: float = 10.0, seed: int = 0) -> list[dict[str, Any]]:
    """Nine learning rates around a shifted optimum, two seeds, for every size and data set."""
    generator, rows = np.random.default_rng(seed), []
    for N in sizes:
        for D in TOKENS:
            best = best_rate(N, D)
            for rate in best * np.geomspace(1.0 / span, span, 9) * np.exp(generator.uniform(-0.3, 0.3)):
                for run in (0, 1):
                    lost = 0.02 * np.log(rate / best) ** 2
                    rows.append(
                        {
                            "seed": run,
                            "model_parameters": int(N),
                            "tokens": int(D * np.exp(0.03 * generator.standard_normal())),
                            "learner.learning_rate": float(rate),
                            "win_rate": float(0.7 - lost + NOISE * generator.standard_normal()),
                            "status": "complete",
                            "censored": False,
                        }
                    )
    return rows


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """As CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path
