"""A finished run directory made up for tests of reports, and a page read as a browser would."""

import json
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from workflows.report import write_report
from workflows.report_promises import promises
from workflows.report_run import read_run

Row = dict[str, Any]
WALK = "Take a slow walk by the river and write down three small things that made you smile today. "
QUANTITIES = """
loss 0.69 0.45 0.03                  margin 0 0.9 0.08                  accuracy 0.52 0.79 0.04
kl 0 19 0.8                          kl_k3 0 23 1.2                     entropy 2.3 1.7 0.05
chosen_logprob -96 -102 2.5          rejected_logprob -97 -116 3        length_mean 52 41 1.6
truncated_share 0.2 0.06 0.02        gradient_norm 2.4 2.1 0.5          learning_rate 3e-4 1e-5 0
pairs 44 40 2                        dropped_pairs 4 8 2                clipped 0.4 0.4 0.1
staleness_mean 1.1 1.1 0.2           staleness_max 2 2 0                overlap_efficiency 0.9 0.9 0.02
idle_rollout 0.1 0.1 0.03            idle_scoring 0.96 0.96 0.01        idle_learner 0.24 0.24 0.06
publication_seconds 0.6 0.6 0.06     mismatch_kl 6e-4 6e-4 1e-4         completions_per_second 3.8 4.1 0.2
exposed_publication_seconds 0.03 0.03 0.01                            mismatch_max_abs_logprob 0.06 0.06 0.01
generated_tokens_per_second 178 170 9                                   learner_tokens_per_second 410 390 22
disagreement 0.31 0.36 0.02           reward/warmth 0.2 0.6 0.05           reward/a.brief/head 12 19 0.9
weight/warmth 0.5 0.32 0.01           weight/a.brief/head 0.5 0.61 0.01
"""
"""Name, value at the start, value at the end and noise of what a step measures."""
CONFIG = """
name: demo
seed: 0
model: {name: smollm2-135m-instruct, dtype: bfloat16}
data: {prompts: configs/prompts/train.jsonl, heldout: configs/prompts/heldout.jsonl}
objective: {name: online_dpo, options: {beta: 0.1, candidates: 4, link: logistic}}
loop: {steps: 52, batch: 8, eta: 2}
learner: {method: lora, learning_rate: 0.0003}
scoring:
  panel: ["workflows.judges:warmth", "workflows.judges:brevity", "workflows.judges:concreteness"]
"""
ENVIRONMENT = """
versions: {python: 3.11.7, torch: 2.13.0, vllm: 0.32.0, ray: 2.60.0}
commit: 3f9c2d1e
hardware: {cpu: x86-64, cores: 2, memory_gib: 15.6, gpus: []}
command: python -m workflows.align --config configs/demo.yaml
"""
SUMMARY = """
ledger: {admitted: 423, trained: 416, rejected: 3, in_flight: 4}
rejections: {generation_failed: 2, scorer_lost: 1}
staleness: {bound: 2, max: 2, mean: 1.0714, histogram: {"0": 40, "1": 326, "2": 50}}
overlap_efficiency: 0.90317
idle: {rollout: 0.0987, scoring: 0.9711, learner: 0.2423}
publication: {count: 52, seconds_median: 0.6173, exposed_seconds_median: 0.0309}
mismatch: {kl: 0.00081, max_abs_logprob: 0.0913}
throughput: {completions_per_second: 3.81, generated_tokens_per_second: 178.4, learner_tokens_per_second: 412}
kl: 18.731
wall_seconds: 492.318
seconds_to_win_rate_0_70: 272.0
seed: 0
versions: {python: 3.11.7, torch: 2.13.0}
model: smollm2-135m-instruct
objective: online_dpo
status: finished
"""


def step_rows(count: int) -> list[Row]:
    """Steps of a run of about eight minutes on two cores, noisy as a real one."""
    random = np.random.default_rng(0)
    words = QUANTITIES.split()
    quantities = {words[i]: [float(word) for word in words[i + 1 : i + 4]] for i in range(0, len(words), 4)}
    rows: list[Row] = []
    for version in range(1, count + 1):
        row: Row = {"kind": "step", "version": version, "seconds": 38 + 8.4 * version, "groups": 8 * version}
        for name, (begin, end, noise) in quantities.items():
            value = begin + (end - begin) * version / count + noise * random.normal()
            row[name] = max(0.0, value) if begin >= 0 else value
        rows.append(row)
    return rows


def evaluation_rows(rates: Iterable[float] = (0.5, 0.56, 0.61, 0.66, 0.72, 0.75, 0.78, 0.8)) -> list[Row]:
    """Evaluations every seven versions."""
    rows: list[Row] = []
    for place, mean in enumerate(rates):
        rate = {"mean": mean, "low": mean - 0.09, "high": mean + 0.09, "n": 96}
        row: Row = {
            "kind": "evaluation",
            "version": 7 * place,
            "seconds": 36.0 + 59.0 * place,
            "win_rate": rate,
        }
        row["judges"] = {"warmth": 1.2 * mean - 0.1, "brevity": 0.7 * mean + 0.15, "concreteness": 0.5}
        rows.append(row | {"ties": 0.08 - 0.005 * place, "length_mean": 51.0 - 1.4 * place})
    return rows


def sample_rows(count: int = 10) -> list[Row]:
    """Samples with every kind of verdict."""
    rows: list[Row] = []
    for place in range(count):
        row: Row = {"prompt": f"Suggest something pleasant for a rainy Sunday, number {place + 1}."}
        row |= {
            "start": WALK * 3,
            "final": "What a lovely idea! " + WALK,
            "probability": float(place % 3 != 2),
        }
        row["judges"] = {"warmth": 1, "brevity": [1, 0.5, 0][place % 3], "concreteness": [0, 1][place % 2]}
        rows.append(row)
    return rows


def build_run(
    directory: Path,
    steps: list[Row] | None = None,
    evaluations: list[Row] | None = None,
    samples: list[Row] | None = None,
    **changed: Any,
) -> Path:
    """A run directory as a finished run leaves it; `changed` replaces keys of its summary."""
    steps = step_rows(52) if steps is None else steps
    evaluations = evaluation_rows() if evaluations is None else evaluations
    samples = sample_rows() if samples is None else samples
    rate = evaluations[-1]["win_rate"] if evaluations else None
    summary = {"win_rate": rate, **yaml.safe_load(SUMMARY), **changed}
    files = {
        "config.yaml": CONFIG,
        "environment.json": json.dumps(yaml.safe_load(ENVIRONMENT)),
        "summary.json": json.dumps(summary),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in steps + evaluations),
        "samples.jsonl": "".join(json.dumps(row) + "\n" for row in samples),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


class Page(HTMLParser):
    """What a browser would make of a page: its tags, its visible text, and its exact values."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headline: dict[str, str | None] = {}
        self.values: dict[str, str | None] = {}
        self._parts: list[str] = []
        self._style = False
        self.feed(source)
        self.text = re.sub(r"\s+", " ", " ".join(self._parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._style = tag == "style"
        for key, found in (("data-key", self.headline), ("data-summary", self.values)):
            if tag == "data" and key in attributes:
                found[str(attributes[key])] = attributes["value"]

    def handle_endtag(self, tag: str) -> None:
        self._style = False

    def handle_data(self, data: str) -> None:
        if not self._style:
            self._parts.append(data)


def page_of(directory: Path) -> Page:
    return Page(write_report(directory).read_text(encoding="utf-8"))


def state_of(directory: Path, promise: str) -> str:
    return next(state for name, _, state in promises(read_run(directory)) if name.startswith(promise))
