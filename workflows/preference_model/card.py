"""The model card of a trained preference model: what it is, what it was trained on, and how far it can be trusted."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.figure import Figure

from actors.preference_config import ObjectiveKind, PreferenceModelConfig
from algorithms.calibration import wilson
from workflows.drawing import BLUE, MUTED, STYLE

PLOT = "reliability.png"
KINDS: dict[ObjectiveKind, str] = {
    "bradley_terry": "A reward model, trained by Bradley-Terry on comparisons: P(a > b) = sigmoid(r(a) - r(b)).",
    "general_preference": "A general preference model (skew-symmetric embedding): it can prefer in a circle.",
    "pair_classifier": "A language model that is asked which of two responses is better; both orders are averaged.",
    "regression": "A reward model with one output for each attribute, trained by regression on given scores.",
}
LOADING: dict[ObjectiveKind, str] = {
    "bradley_terry": "model.scores(prompt, responses)   # [K, 1]\nmodel.matrix(prompt, responses)   # [K, K], P(i > j)",
    "general_preference": "model.matrix(prompt, responses)   # [K, K], P(i > j)",
    "pair_classifier": "model.matrix(prompt, responses)   # [K, K], P(i > j)",
    "regression": "model.heads\nmodel.scores(prompt, responses)   # [K, H], one column a head",
}


def write_card(
    folder: Path,
    config: PreferenceModelConfig,
    facts: Mapping[str, Any],
    figures: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Write `README.md`, and for comparisons the reliability plot, into a model's folder."""
    if "calibration" in figures:
        reliability(figures["calibration"]).savefig(folder / PLOT, dpi=160)
    (folder / "README.md").write_text(card(folder.name, config, facts, figures, about), encoding="utf-8")


def card(
    name: str,
    config: PreferenceModelConfig,
    facts: Mapping[str, Any],
    figures: Mapping[str, Any],
    about: Mapping[str, Any],
) -> str:
    """The card as Markdown, with the front matter that model hubs read."""
    kind = config.objective.kind
    architecture = "AutoModelForCausalLM" if kind == "pair_classifier" else "AutoModelForSequenceClassification"
    front = {"library_name": "transformers", "base_model": config.model.name, "tags": ["preference-model", kind]}
    measured = _ratings(figures) if kind == "regression" else _comparisons(figures)
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).strip(),
            "---",
            f"# {config.name}: {name}",
            "",
            f"{KINDS[kind]} It starts from `{config.model.name}` and was trained with NashLoop.",
            "",
            "```python",
            "from actors.reward_models import load_preference_model",
            "",
            'model = load_preference_model("path/to/this/folder")',
            'prompt = [{"role": "user", "content": "Why is the sky blue?"}]',
            LOADING[kind],
            "```",
            "",
            f"`{architecture}.from_pretrained` loads the same folder; `config.json` says under `nashloop` how its "
            "inputs are made.",
            "",
            "## Held-out figures",
            *measured,
            "",
            "## Data",
            *_table(["", ""], _data(facts)),
            "",
            "## Training",
            *_table(["", ""], _training(config, about)),
            "",
            "It says what the labels of its data say, on prompts and responses like those. Optimised against for long, "
            "it is exploited where it is wrong.",
            "",
        ]
    )


def reliability(calibration: Mapping[str, Any]) -> Figure:
    """Agreement with the labels against confidence, with Wilson intervals, above the number of comparisons."""
    bins = calibration["bins"]
    middle = [(b["low"] + b["high"]) / 2.0 for b in bins]
    confidence, agreement = np.array([b["confidence"] for b in bins]), np.array([b["agreement"] for b in bins])
    intervals = [wilson(b["agreement"] * b["n"], b["n"]) for b in bins]
    spread = [[a - i.low for a, i in zip(agreement, intervals, strict=True)]]
    spread += [[i.high - a for a, i in zip(agreement, intervals, strict=True)]]
    with matplotlib.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure = Figure(figsize=(5.2, 5.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
        upper.plot([0.5, 1.0], [0.5, 1.0], color=MUTED, linewidth=1, linestyle="--", label="calibrated")
        upper.errorbar(confidence, agreement, spread, color=BLUE, marker="o", capsize=3, label="this model")
        upper.set(ylabel="mean label for the preferred response", ylim=(0.0, 1.02), xlim=(0.5, 1.0))
        upper.set_title(f"Reliability on held-out comparisons, calibration error {calibration['error']:.3f}")
        upper.legend(loc="lower right")
        lower.bar(middle, [b["n"] for b in bins], width=0.045, color=BLUE)
        lower.set(xlabel="probability of the preferred response", ylabel="comparisons")
    return figure


def _comparisons(figures: Mapping[str, Any]) -> list[str]:
    length, position = figures["length_bias"], figures["position_bias"]
    rows = [
        ["accuracy (ties of the labels left out)", _share(figures["accuracy"])],
        *([f"accuracy of a baseline: {name}", _share(share)] for name, share in figures["baselines"].items()),
        ["cross-entropy, nats (0.693 knows nothing)", f"{figures['cross_entropy']:.3f}"],
        ["expected calibration error", f"{figures['calibration']['error']:.3f}"],
        ["prefers the longer response", _share(length["model"])],
        ["the labels do", _share(length["labels"])],
        ["length bias, the difference of both", _share(length["excess"])],
        ["accuracy where the longer response won", _share(length["accuracy_longer"])],
        ["accuracy where the shorter response won", _share(length["accuracy_shorter"])],
    ]
    if position is None:
        rows.append(["position bias", "none: responses are read one at a time"])
    else:
        rows.append(["position bias: leaning towards the response shown first", f"{position['lean']:+.3f}"])
        rows.append(["both orders name the same response", _share(position["consistent"])])
    said = (
        f"{figures['n']} comparisons, of which {figures['ties']} are ties. Shares with 95% intervals (Wilson; of the "
        "paired difference, normal)."
    )
    return [said, "", *_table(["figure", "value"], rows), "", f"![Reliability]({PLOT})"]


def _ratings(figures: Mapping[str, Any]) -> list[str]:
    header = [
        "attribute",
        "ratings",
        "error (RMSE)",
        "error of the mean",
        "pairs ordered right",
        "longer is higher: model",
        "data",
    ]
    rows = [
        [
            name,
            str(found["n"]),
            *map(_number, (found["error"], found["error_of_mean"], found["ordered"])),
            *map(_number, (found["longer_is_higher"]["model"], found["longer_is_higher"]["data"])),
        ]
        for name, found in figures["attributes"].items()
    ]
    return [f"{figures['n']} responses.", "", *_table(header, rows)]


def _data(facts: Mapping[str, Any]) -> list[list[str]]:
    prompts = facts["prompts"]
    rows = [
        ["file", f"`{facts['file']}`: {facts['rows']} rows"],
        ["left out as identical responses; ties", f"{facts['identical']}; {facts['ties']}"],
        ["rows for training; held out", f"{facts['train']}; {facts['heldout']}"],
        ["prompts for training; held out; in both", f"{prompts['train']}; {prompts['heldout']}; {prompts['shared']}"],
        ["tokens of an epoch; inputs cut at the window", f"{facts['tokens']}; {facts['truncated']}"],
    ]
    if held := facts.get("heldout_file"):
        rows.insert(1, ["held-out file", f"`{held['file']}`: {held['rows']} rows"])
    return rows


def _training(config: PreferenceModelConfig, about: Mapping[str, Any]) -> list[list[str]]:
    options = config.training
    return [
        ["objective", f"`{config.objective.model_dump(exclude_defaults=True) | {'kind': config.objective.kind}}`"],
        ["method", f"{options.method}" + (f", rank {options.lora.rank}" if options.method == "lora" else "")],
        ["epochs, batch, learning rate", f"{options.epochs}, {options.batch}, {options.learning_rate:g}"],
        ["seed", str(config.seed)],
        ["commit, command", f"{about['commit']}, `{about['command']}`"],
    ]


def _share(found: Mapping[str, Any]) -> str:
    if not found["n"]:
        return "no such comparisons"
    return f"{found['share']:.3f} ({found['low']:.3f} to {found['high']:.3f}; n = {found['n']})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]
