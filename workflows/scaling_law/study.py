"""From a question to its answer: the fitted law, and the check on what was held out."""

from dataclasses import dataclass

import numpy as np

from algorithms.preference import BoolArray, FloatArray
from algorithms.scaling import LAWS
from algorithms.scaling.bootstrap import bootstrap
from algorithms.scaling.fit import Fit, FitError, Prediction, fit_law
from algorithms.scaling.identification import doubts
from algorithms.scaling.law import Law
from algorithms.scaling.overoptimisation import peak
from workflows.scaling_law.curves import curves
from workflows.scaling_law.groups import SAME_LEVEL, SHIFTED, optima, sharing_curvature
from workflows.scaling_law.measurements import Measurements
from workflows.scaling_law.question import CURVE_LAWS, Mode, Question
from workflows.scaling_law.table import Table, TableError, check_units


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Check:
    """The law fitted without the held-out rows [n], and how it predicts them [m].

    `errors` [m] are relative, plain for laws without logarithms; `covered` is the share of outcomes in their 95%
    interval; `excess`, how much worse the metric is at predicted settings than at the groups' optima, in the mean,
    None where nothing is tuned.
    """

    fit: Fit
    held_out: BoolArray
    prediction: Prediction
    errors: FloatArray
    covered: float
    excess: float | None

    @property
    def mean_error(self) -> float:
        """Mean absolute error."""
        return float(np.abs(self.errors).mean())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """One law of one table, with everything worth knowing about it in `notes`."""

    metric: str
    mode: Mode
    measurements: Measurements
    fit: Fit
    check: Check | None
    notes: tuple[str, ...]

    @property
    def setting(self) -> str | None:
        """The tuned column, for a law of best settings."""
        return self.fit.law.outcome if self.fit.law.name == "step" else None

    @property
    def shift(self) -> float:
        """What was added to the setting."""
        return SHIFTED.get(self.setting or "", 0.0)


def answer(question: Question, table: Table) -> list[Study]:
    """One study a tuned setting, or one of the law's outcome.

    Raises: `TableError`, `FitError`.
    """
    for column, value in question.where:
        table = table.where(column, value)
    if question.law == "step":
        metric, mode = _metric(question, table)
        studies = []
        for axis in range(len(question.tuned)):
            measured = optima(question, table, axis, metric, mode)
            studies.append(_study(question, table, measured, metric, mode))
        return studies
    if question.law not in LAWS:
        raise TableError(f"there is no law {question.law}; there are step, {', '.join(LAWS)}")
    law = LAWS[question.law]
    metric = table.column(question.metric or law.outcome)
    if law.name in CURVE_LAWS:
        measured = curves(table, law, metric, question.group, question.warmup)
    else:
        measured = _plain(table, law, metric, question.group)
    return [_study(question, table, measured, metric, "min" if "loss" in metric else "max")]


def _metric(question: Question, table: Table) -> tuple[str, Mode]:
    """What settings are tuned for, and whether small or large values of it are good."""
    column = table.column(question.metric or ("win_rate" if table.has("win_rate") else "loss"))
    return column, question.mode or ("min" if "loss" in column else "max")


def _plain(table: Table, law: Law, metric: str, by: tuple[str, ...]) -> Measurements:
    """One outcome a row."""
    factors = {name: table.numbers(name) for name in law.factors}
    for name, values in factors.items():
        # Zero staleness is the synchronous loop; zero of anything else has no logarithm or no power.
        wrong = np.flatnonzero((values < 0.0) | (values % 1.0 != 0.0) if name == "eta" else values <= 0.0)
        if len(wrong):
            needed = "a whole number, 0 or more" if name == "eta" else "above 0"
            raise TableError(f"{table.places[wrong[0]]}: {name} is {values[wrong[0]]:g}, and has to be {needed}")
    if "N" in factors:
        check_units(table, factors["N"], factors.get("D"))
    labels = [", ".join(map(str, row)) for row in table.labels(by or law.factors)]
    return Measurements(law=law, factors=factors, outcome=table.numbers(metric), labels=labels)


def _study(question: Question, table: Table, measured: Measurements, metric: str, mode: Mode) -> Study:
    fixed, notes = dict(question.fixed), [*table.notes, *measured.notes]
    held_out = _held_out(question, measured)
    fit = fit_law(measured.law, measured.factors, measured.outcome, delta=question.delta, fixed=fixed)
    fit = bootstrap(fit, measured.factors, measured.outcome, measured.labels, question.resamples, question.seed)
    try:
        check = _check(question, measured, held_out, mode)
    except FitError as error:
        check = None
        notes.append(f"Not checked on a held-out scale: {error}.")
    if (highest := peak(fit.law, fit.parameters)) is not None:
        notes.append(f"{metric} is highest, {highest[1]:.3g}, at a KL of {highest[0]:.3g} nats; beyond, it falls.")
    return Study(metric=metric, mode=mode, measurements=measured, fit=fit, check=check, notes=(*notes, *doubts(fit)))


def _held_out(question: Question, measured: Measurements) -> BoolArray:
    """[n], rows kept for the check: those asked for, of the largest value of a factor, or of the longest run."""
    asked, law = question.hold_out, measured.law
    if asked and asked.values:
        known = set(measured.labels)
        if unknown := [value for value in asked.values if value not in known]:
            raise TableError(f"--hold-out names {', '.join(unknown)}; the groups are {', '.join(sorted(known))}")
        return np.array([label in asked.values for label in measured.labels])
    if law.name in CURVE_LAWS:
        longest = measured.labels[int(np.argmax(measured.steps))]
        return np.array([label == longest for label in measured.labels])
    column = asked.column if asked else law.factors[0]
    if column not in measured.factors:
        raise TableError(f"--hold-out {column}: the factors of this law are {', '.join(law.factors)}")
    return np.asarray(measured.factors[column] * SAME_LEVEL >= measured.factors[column].max())


def _check(question: Question, measured: Measurements, held_out: BoolArray, mode: Mode) -> Check:
    if held_out.all():
        raise FitError("all rows would be held out")
    factors, outcome = measured.take(~held_out)
    if question.curvature == "shared":
        outcome = _without(measured, held_out, mode)
    fit = fit_law(measured.law, factors, outcome, delta=question.delta, fixed=dict(question.fixed))
    target, expected = measured.take(held_out)
    prediction = fit.predict(target, scatter=True, extrapolate=True)
    inside = (prediction.low <= expected) & (expected <= prediction.high)
    return Check(
        fit=fit,
        held_out=held_out,
        prediction=prediction,
        errors=(prediction.value - expected) / (expected if measured.law.logarithmic else 1.0),
        covered=float(inside.mean()),
        excess=_excess(measured, held_out, prediction, mode),
    )


def _without(measured: Measurements, held_out: BoolArray, mode: Mode) -> FloatArray:
    """Best settings of the groups that are not held out, as their own shared curvature has them."""
    held = {label for label, is_held in zip(measured.labels, held_out, strict=True) if is_held}
    seen = sharing_curvature([group for group in measured.groups if group.label not in held], mode)
    return np.array([group.optimum.setting[group.axis] for group in seen if group.label in measured.labels])


def _excess(measured: Measurements, held_out: BoolArray, prediction: Prediction, mode: Mode) -> float | None:
    if not measured.groups:
        return None
    found = {group.label: group for group in measured.groups}
    held = [found[label] for label, is_held in zip(measured.labels, held_out, strict=True) if is_held]
    sign = 1.0 if mode == "min" else -1.0
    worse = [
        sign * (group.along(np.array([setting]))[0] - group.optimum.best)
        for group, setting in zip(held, prediction.value.tolist(), strict=True)
    ]
    return float(np.mean(worse))
