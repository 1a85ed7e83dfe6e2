"""The figures of the run report by name, each one inline SVG element or, where nothing was measured, None."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from workflows.drawing import (
    BLUE,
    COLOURS,
    GREEN,
    INK,
    LINE_STYLES,
    MUTED,
    ORANGE,
    PURPLE,
    SECONDS,
    SKY,
    STYLE,
    VERMILLION,
    VERSION,
    Panel,
    Rows,
    finish,
    from_zero,
    judges_of,
    key_number,
    line,
    lines_of,
    number,
    panels,
    pick,
    series,
    svg,
    thin,
)

_KL = [("kl", BLUE, "k1 estimate"), ("kl_k3", ORANGE, "k3 estimate")]
_LOGPROBS = [("chosen_logprob", BLUE, "chosen"), ("rejected_logprob", VERMILLION, "rejected")]
_TOKENS = [
    ("generated_tokens_per_second", BLUE, "generated"),
    ("learner_tokens_per_second", ORANGE, "trained"),
]
DRIFT = (
    Panel("KL to the reference", "nats per completion", _KL),
    Panel("Entropy", "nats per token", [("entropy", GREEN, "")], from_zero=True),
)
PAIRS = (
    Panel("Margin, chosen over rejected", "margin (beta h)", [("margin", BLUE, "")]),
    Panel("Accuracy", "share of pairs with h > 0", [("accuracy", GREEN, "")]),
    Panel("Log-probabilities", "nats per completion", _LOGPROBS),
)
OPTIMISER = (
    Panel("Loss", "loss", [("loss", BLUE, "")]),
    Panel("Gradient norm", "norm, before clipping", [("gradient_norm", PURPLE, "")], from_zero=True),
    Panel("Learning rate", "learning rate", [("learning_rate", GREEN, "")], from_zero=True),
)
_ENTROPIES = [
    ("entropy", BLUE, "all tokens"),
    ("top_entropy", ORANGE, "most likely ones"),
    ("top_renormalised_entropy", GREEN, "the same, renormalised"),
]
_SHARES = [("top_mass", ORANGE, "mass of the most likely tokens"), ("ranking_accuracy", BLUE, "ranking accuracy")]
DIAGNOSTICS = (
    Panel("KL to the reference, all tokens", "nats per token", [("kl", BLUE, "")]),
    Panel("Entropy of the next token", "nats per token", _ENTROPIES),
    Panel("Mass and ranking", "share of probability, of pairs", _SHARES),
    Panel("Gradient entanglement", "ratio; above 1 both move alike", [("entanglement_ratio", PURPLE, "")]),
)
THROUGHPUT = (
    Panel("Completions", "completions per second", [("completions_per_second", BLUE, "")], from_zero=True),
    Panel("Tokens", "tokens per second", _TOKENS, from_zero=True),
)


def _win_rate(evaluations: Rows) -> str | None:
    figure, axes = panels(2, height=3.5, sharey=True)
    mean, low, high = (series(evaluations, f"win_rate.{part}") for part in ("mean", "low", "high"))
    for ax, key, label in ((axes[0], "seconds", SECONDS), (axes[1], "version", VERSION)):
        x = series(evaluations, key)
        if np.isfinite(mean + x).any():
            ax.fill_between(x, low, high, color=BLUE, alpha=0.16, linewidth=0, label="95% interval")
            ax.plot(x, mean, color=BLUE, marker="o", markersize=4.5, label="win rate")
            ax.axhline(0.7, color=VERMILLION, linestyle="--", linewidth=1.2, label="0.70")
            ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2, label="0.50, no change")
            bottom, top = np.nanmin(np.append(low, mean)), np.nanmax(np.append(high, mean))
            ax.set_ylim(max(0.0, min(0.4, bottom - 0.03)), min(1.0, max(0.9, top + 0.03)))
        finish(ax, f"Win rate against the {'clock' if key == 'seconds' else 'version'}", label, "win rate")
    axes[1].tick_params(labelleft=True)
    return svg(figure, "win_rate", "Win rate against the start, over seconds and over versions")


def _judges(evaluations: Rows) -> str | None:
    figure, axes = panels(2, height=2.9)
    version = series(evaluations, "version")
    names = {str(name) for row in evaluations for name in judges_of(row)}
    for place, name in enumerate(sorted(names)):
        values = series([judges_of(row) for row in evaluations], name)
        if np.isfinite(values).any():
            style, marker = LINE_STYLES[place % len(LINE_STYLES)], "osD^vP"[place % 6]
            axes[0].plot(
                version,
                values,
                color=COLOURS[place % 6],
                linestyle=style,
                marker=marker,
                markersize=4,
                label=name,
            )
    if axes[0].has_data():
        axes[0].axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
    finish(axes[0], "Each judge alone", VERSION, "win rate by this judge")
    ties = series(evaluations, "ties")
    line(axes[1], version, ties, PURPLE)
    if axes[1].has_data():
        axes[1].set_ylim(0, 1.03)
    finish(axes[1], "Ties of the panel", VERSION, "share of comparisons")
    return svg(figure, "judges", "Win rate by each judge alone, and share of ties, over versions")


def _scoring(steps: Rows) -> str | None:
    keys = dict.fromkeys(key for row in steps for key in row)
    shown = [Panel("Disagreement", "standard deviation of P", [("disagreement", PURPLE, "")], from_zero=True)]
    for prefix, title, unit in (
        ("reward/", "Rewards of trained completions", "mean, each in its own units"),
        ("weight/", "Weights of the objectives", "weight"),
    ):
        names = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        shown += [Panel(title, unit, [(prefix + n, COLOURS[i % 6], n) for i, n in enumerate(names)])] if names else []
    return lines_of("scoring", "Disagreement of the panel, rewards and their weights, over versions", steps, *shown)


def _lengths(steps: Rows, evaluations: Rows) -> str | None:
    figure, axes = panels(2)
    line(axes[0], series(steps, "version"), series(steps, "length_mean"), BLUE, "trained completions")
    held_out = series(evaluations, "length_mean")
    if np.isfinite(held_out).any():
        x = series(evaluations, "version")
        axes[0].plot(x, held_out, color=ORANGE, linestyle="--", marker="o", markersize=4, label="held-out prompts")
    from_zero(axes[0])
    finish(axes[0], "Length of completions", VERSION, "tokens, mean")
    line(axes[1], series(steps, "version"), series(steps, "truncated_share"), VERMILLION)
    if axes[1].has_data():
        axes[1].set_ylim(0, 1.03)
    finish(axes[1], "Completions cut off at the length limit", VERSION, "share of completions")
    return svg(figure, "lengths", "Mean length of completions and share cut off, over versions")


def _planes(steps: Rows) -> str | None:
    figure, axes = panels(1, 4, height=6.4, sharex=True)
    seconds = thin(series(steps, "seconds"))
    for ax, name, colour in zip(axes, ("rollout", "scoring", "learner"), (BLUE, GREEN, ORANGE), strict=False):
        busy = 1 - np.clip(thin(series(steps, f"idle_{name}")), 0.0, 1.0)
        if np.isfinite(busy + seconds).any():
            ax.fill_between(seconds, 0, busy, step="pre", color=colour, alpha=0.8, linewidth=0, label="busy")
            ax.fill_between(seconds, busy, 1, step="pre", color="#dfe4ea", linewidth=0, label="idle")
            ax.set_ylim(0, 1)
            ax.set_xlim(0, float(np.nanmax(seconds)))
        finish(ax, f"{name.capitalize()} plane", "", "share of time")
    line(
        axes[3],
        series(steps, "seconds"),
        series(steps, "overlap_efficiency"),
        INK,
        "busier of rollout and learner",
    )
    if axes[3].has_data():
        axes[3].set_ylim(0, 1.1)
    finish(axes[3], "Overlap efficiency", SECONDS, "share of time")
    for ax in axes:
        if ax.has_data():
            ax.set_yticks([0, 0.5, 1])
    return svg(figure, "planes", "Busy and idle share of each plane, and overlap efficiency, over time")


def _staleness(steps: Rows, summary: Mapping[str, Any]) -> str | None:
    figure, (counts, over_time) = panels(2)
    histogram = pick(summary, "staleness.histogram")
    pairs = histogram.items() if isinstance(histogram, Mapping) else ()
    known = {key_number(key) or 0.0: number(count) or 0.0 for key, count in pairs if key_number(key) is not None}
    bound = number(pick(summary, "staleness.bound"))
    if known:
        counts.bar(list(known), list(known.values()), width=0.7, color=BLUE)
        for key, count in known.items():
            counts.text(key, count, f"{count:,.0f}", ha="center", va="bottom", fontsize=8.5, color=INK)
        counts.margins(y=0.12)
        counts.grid(axis="x", visible=False)
        counts.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if bound is not None:
            counts.axvline(bound + 0.5, color=VERMILLION, linestyle="--", linewidth=1.2, label=f"bound: {bound:g}")
            counts.set_xlim(-0.7, max(bound, *known) + 0.9)
    finish(counts, "Staleness of trained groups", "staleness (versions)", "groups")
    version = series(steps, "version")
    line(over_time, version, series(steps, "staleness_mean"), BLUE, "mean of the step")
    line(over_time, version, series(steps, "staleness_max"), ORANGE, "largest of the step", "--")
    if over_time.has_data() and bound is not None:
        over_time.axhline(bound, color=VERMILLION, linestyle=":", linewidth=1.4, label=f"bound: {bound:g}")
        over_time.set_ylim(bottom=-0.05 * max(bound, 1.0), top=1.1 * max(bound, 1.0))
    finish(over_time, "Staleness over the run", VERSION, "staleness (versions)")
    return svg(figure, "staleness", "Histogram of staleness, and staleness over versions")


def _publication(steps: Rows) -> str | None:
    figure, axes = panels(2)
    names = ("version", "publication_seconds", "exposed_publication_seconds")
    version, total, exposed = (thin(series(steps, name)) for name in names)
    if np.isfinite(total + version).any():
        gaps = np.diff(version)
        width = 0.85 * (float(np.nanmedian(gaps)) if np.isfinite(gaps).any() else 1.0)
        axes[0].bar(version, total, width=width, color=SKY, label="hidden behind other work")
        axes[0].bar(version, np.fmin(exposed, total), width=width, color=VERMILLION, label="exposed")
    finish(axes[0], "Publication of weights", VERSION, "seconds")
    line(axes[1], version, thin(series(steps, "mismatch_kl")), PURPLE)
    from_zero(axes[1])
    finish(axes[1], "Mismatch of engine and learner", VERSION, "nats per token")
    return svg(
        figure,
        "publication",
        "Seconds of each publication, and mismatch of engine and learner, over versions",
    )


def figures(
    steps: Rows, evaluations: Rows, summary: Mapping[str, Any], diagnostics: Rows = ()
) -> dict[str, str | None]:
    """All figures of a report by name, as SVG elements; None for one of which nothing was measured.

    `steps` and `evaluations` are the lines of metrics.jsonl of each kind, `diagnostics` those of diagnostics.jsonl,
    in the order of their versions.
    """
    with matplotlib.rc_context(STYLE):
        return {
            "win_rate": _win_rate(evaluations),
            "judges": _judges(evaluations),
            "scoring": _scoring(steps),
            "lengths": _lengths(steps, evaluations),
            "drift": lines_of("drift", "KL to the reference and entropy, over versions", steps, *DRIFT),
            "pairs": lines_of("pairs", "Margins, accuracy and log-probabilities, over versions", steps, *PAIRS),
            "diagnostics": lines_of(
                "diagnostics", "Measurements of checkpoints, over versions", diagnostics, *DIAGNOSTICS, rows=2
            ),
            "optimiser": lines_of("optimiser", "Loss, gradient and learning rate, over versions", steps, *OPTIMISER),
            "planes": _planes(steps),
            "staleness": _staleness(steps, summary),
            "publication": _publication(steps),
            "throughput": lines_of("throughput", "Completions and tokens a second, over versions", steps, *THROUGHPUT),
        }
