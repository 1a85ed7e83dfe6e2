"""The benchmarks by name: what each promises, and how it is run in a process of its own."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module

from benchmarks.results import Figure

NAMES = ("generation", "learner", "loop", "scoring", "diagnostics", "serve", "trl", "trl_time")


def bound_of(name: str) -> str:
    """The first paragraph of the benchmark's docstring."""
    return " ".join((import_module(f"benchmarks.{name}").__doc__ or "").split("\n\n")[0].split())


def run_in_own_process(name: str, quick: bool) -> list[Figure]:
    """A benchmark's figures; threads, engines and a Ray session of one do not touch the next."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, name, quick).result()


def _run(name: str, quick: bool) -> list[Figure]:
    # Ray lowers the priority of its workers; what they are compared with keeps the usual one.
    os.environ.setdefault("RAY_worker_niceness", "0")
    figures: list[Figure] = import_module(f"benchmarks.{name}").run(quick)
    return figures
