"""Side by side with TRL 1.16's online DPO: at least twice its completions per second.

TRL runs in an environment of its own, which is made in the cache on first use (about 1.5 GB), and tuned: KV cache, no
gradient checkpointing, all cores. Both systems get the same model folder, prompts, judge (VADER compound minus 0.02 a
word), K = 2, 8 prompts a step, 64 new tokens, constant learning rate 3e-4, beta 0.1, AdamW. Ours has two learner
workers where the model is large enough to share, and completions that are up to four versions old: the more are under
way, the better an engine fills its batch. TRL's are always new. Start-up is not counted. `trl_time`, with the same
settings, compares what is learned.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from actors.config import AlignConfig
from actors.models import cache_folder, resolve_model
from benchmarks.measure import ratios, take_turns
from benchmarks.models import make_llama
from benchmarks.results import ROOT, Figure
from benchmarks.runs import HELDOUT, PROMPTS, configuration, run_loop, steady_state

TRL = "trl==1.16.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
RATE_TARGET = 2.0
JUDGE = "benchmarks.judges:sentiment_minus_length"
WARM_UP = 2
ETA, BATCH = 4, 8
LEARNING_RATE, BETA = 3e-4, 0.1

OURS: dict[str, Any] = {
    "objective": {"options": {"candidates": 2, "beta": BETA}},
    "rollout": {"max_sequences": 80, "kv_cache_gib": 0.5},
    "scoring": {"panel": [JUDGE]},
}
LEARNER = {"learning_rate": LEARNING_RATE, "betas": (0.9, 0.999), "token_budget": 1024}


def run(quick: bool) -> list[Figure]:
    """Rates with a tiny Llama and with the demo's model."""
    python = environment()
    with tempfile.TemporaryDirectory(prefix="nashloop-benchmark-") as folder:
        tiny = str(make_llama(Path(folder) / "llama"))
        figures = _rates("Llama 4.2M, float32", python, tiny, lora=False, steps=(8, 12) if quick else (24, 80))
        steps = (3, 10) if quick else (8, 30)
        smollm2 = resolve_model("smollm2-135m-instruct")
        return figures + _rates("SmolLM2-135M with LoRA, bfloat16", python, smollm2, lora=True, steps=steps)


def environment() -> Path:
    """The Python of TRL's environment, made when it is missing."""
    folder = cache_folder() / "trl-1.16"
    wanted = [TRL, *(f"{name}=={version(name)}" for name in ("torch", "transformers", "peft", "vaderSentiment"))]
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if stamp.exists() and stamp.read_text() == "\n".join(wanted):
        return python
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    # Where pip knows no index with CPU builds of torch, PyTorch's own has them.
    if subprocess.run(install, check=False).returncode:
        subprocess.run([*install, "--extra-index-url", TORCH_INDEX], check=True)
    stamp.write_text("\n".join(wanted))
    return python


def _rates(name: str, python: Path, model: str, *, lora: bool, steps: tuple[int, int]) -> list[Figure]:
    theirs, ours = steps
    turns = 2 if ours > 30 else 1

    def run_ours(turn: int) -> float:
        run = run_loop(config_of(model, lora, ours, {"seed": turn}))
        return steady_state(run.steps, 2 * WARM_UP, ours - ETA - 1).completions_per_second

    def run_theirs(turn: int) -> float:
        lines = train_with_trl(python, model, lora, "--steps", str(theirs), "--seed", str(turn))
        return completions_per_second(lines)

    values = take_turns({"trl": run_theirs, "ours": run_ours}, turns)
    return [
        Figure(name=f"{name}: NashLoop", values=tuple(values["ours"]), unit="completions/s"),
        Figure(name=f"{name}: TRL", values=tuple(values["trl"]), unit="completions/s"),
        Figure(
            name=f"{name}: NashLoop / TRL",
            values=tuple(ratios(values["ours"], values["trl"])),
            target=RATE_TARGET,
            note=f"{ours} and {theirs} steps of 16 completions; ours at most {ETA} versions old",
        ),
    ]


def completions_per_second(lines: list[dict[str, Any]]) -> float:
    """TRL's rate from its step lines: the median step after warming up."""
    steps = [line for line in lines if line["kind"] == "step"][WARM_UP:]
    return float(steps[0]["completions"] / statistics.median(line["seconds"] for line in steps))


def config_of(model: str, lora: bool, steps: int, changes: dict[str, Any], eta: int = ETA) -> AlignConfig:
    """The run that is compared with TRL's, its completions at most `eta` versions old."""
    adapter = {"method": "lora", "lora": {"rank": 16, "alpha": 32}, "workers": 2, "cpus": 0.5}
    method = adapter if lora else {"method": "full"}
    tree = {
        **OURS,
        "model": {"dtype": "bfloat16" if lora else "float32"},
        "loop": {"steps": steps, "batch": BATCH, "eta": eta},
        "rollout": {**OURS["rollout"], "max_running": (eta + 1) * BATCH},
        "learner": {**LEARNER, **method},
    }
    return configuration(model, tree | changes)


def train_with_trl(python: Path, model: str, lora: bool, *arguments: str) -> list[dict[str, Any]]:
    """Run TRL's trainer; returns the lines it reported."""
    threads = str(os.cpu_count() or 1)
    command = [
        str(python), "-m", "benchmarks.trl_online_dpo", "--model", model, "--judge", JUDGE, "--prompts", PROMPTS,
        "--heldout", HELDOUT, "--learning-rate", str(LEARNING_RATE), "--beta", str(BETA), "--threads", threads,
        *(("--lora-rank", "16", "--dtype", "bfloat16") if lora else ()), *arguments,
    ]  # fmt: skip
    variables = os.environ | {"OMP_NUM_THREADS": threads, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"TRL's trainer ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"kind"')]
