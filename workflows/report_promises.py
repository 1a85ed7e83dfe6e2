"""The promises of the system, each with what one run measured of it; kept only where the run measured it."""

from typing import Literal

from workflows.drawing import key_number, number
from workflows.report_run import Run, compact, known, readable

State = Literal["kept", "broken", "not measured", "not applicable"]
MISMATCH_KL = 0.01
"""Nats a token: a rule of thumb for a reader's attention."""


def _ledger(run: Run) -> tuple[str, State]:
    counts = [run.get(f"ledger.{key}") for key in ("admitted", "trained", "rejected", "in_flight")]
    admitted, trained, rejected, in_flight = (count or 0.0 for count in counts)
    if None in counts:
        return "No complete ledger is on record", "not measured"
    parts = f"{trained:,.0f} trained + {rejected:,.0f} rejected + {in_flight:,.0f} in flight"
    if admitted != trained + rejected + in_flight:
        return f"{admitted:,.0f} admitted, but {parts}", "broken"
    named = sum(number(count) or 0.0 for count in run.counts("rejections").values())
    if "rejections" in run.summary and named != rejected:
        return f"{rejected:,.0f} rejected, but {named:,.0f} with a reason", "broken"
    return f"{admitted:,.0f} admitted = {parts}", "kept"


def _staleness(run: Run) -> tuple[str, State]:
    bound, histogram = run.get("staleness.bound"), run.counts("staleness.histogram")
    seen = [key_number(age) for age in histogram if number(histogram[age])]
    largest = max([age for age in (run.get("staleness.max"), *seen) if age is not None], default=None)
    if bound is None or largest is None:
        return "No staleness is on record", "not measured"
    discarded = [str(reason) for reason in run.counts("rejections") if "stale" in str(reason)]
    ages, kept = f"Largest staleness {largest:g}, bound {bound:g}", largest <= bound and not discarded
    oldest, tight = run.get("staleness.opponent.max"), run.get("staleness.opponent.bound")
    if oldest is not None and tight is not None:
        ages, kept = f"{ages}; of opponents {oldest:g}, bound {tight:g}", kept and oldest <= tight
    text = f"{ages}; discarded for age: {', '.join(discarded) or 'none'}"
    return text, "kept" if kept else "broken"


def _publication(run: Run) -> tuple[str, State]:
    count, largest = run.get("publication.count"), run.get("mismatch.max_abs_logprob")
    text = f"{readable(count)} publications; at most {readable(largest)} nats between engine and learner"
    if count == 0 and len(run.steps) > 1:
        return "Weights were trained and none was published", "broken"
    return text, "kept" if count and largest is not None else "not measured"


def _stillness(run: Run) -> tuple[str, State]:
    rates = known(run.steps, "learning_rate")
    if not rates or max(rates) > 0:
        return f"Largest learning rate {readable(max(rates, default=None))}", "not applicable"
    low, high, kl = (run.get(path) for path in ("win_rate.low", "win_rate.high", "kl"))
    if low is None or high is None or kl is None:
        return "Learning rate 0, without win rate and KL", "not measured"
    text = f"Win rate within {low:.3f} to {high:.3f}, KL {readable(kl)}"
    return text, "kept" if low <= 0.5 <= high and abs(kl) <= MISMATCH_KL else "broken"


def _ended(run: Run) -> tuple[str, State]:
    status, seconds = compact(run.summary.get("status")), readable(run.get("wall_seconds"), "seconds")
    over = status.lower() not in {"", "running", "started"}
    return f"Status {status or 'not recorded'} after {seconds}", "kept" if over else "not measured"


def _survival(run: Run) -> tuple[str, State]:
    deaths = {name: run.events.get(name, 0) for name in ("restarted", "learner_restarted", "resumed", "reissued")}
    if not any(deaths.values()):
        return "Nothing died in this run", "not measured"
    text = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in deaths.items() if count)
    return f"Events: {text}; the ledger is the proof", _ledger(run)[1]


def _delay(run: Run) -> tuple[str, State]:
    share, limit, delay = (run.get(f"delay_rule.{key}") for key in ("moved_share", "limit", "delay"))
    if share is None:
        return "Only objectives of regularised games have a rule", "not applicable"
    if limit is None or delay is None:
        return f"A step went {share:.2g} of the way to its target: no rule for that", "not measured"
    safe = f"delays below {limit:.3g} updates are safe" if limit > 0 else "no delay is safe with steps so large"
    text = f"A step went {share:.2g} of the way; {safe}, the largest delay was {delay:g}"
    return text, "kept" if delay < limit else "broken"


def _overlap(run: Run) -> tuple[str, State]:
    keys = ("overlap_efficiency", "idle.rollout", "idle.scoring", "idle.learner", "staleness.max")
    complete = all(run.get(key) is not None for key in (*keys, "publication.exposed_seconds_median"))
    count, total = len(known(run.steps, "overlap_efficiency")), len(run.steps)
    text = f"Overlap efficiency {readable(run.get(keys[0]), 'rate')}, measured at {count} of {total} steps"
    return text, "kept" if complete else "not measured"


def promises(run: Run) -> list[tuple[str, str, State]]:
    """(promise, what was measured, state), from the figures of this run alone."""
    synchronous: State = "not measured" if run.get("staleness.bound") == 0 else "not applicable"
    return [
        ("Exactly once: a group is trained, rejected with a reason, or in flight", *_ledger(run)),
        ("Staleness is bounded by pacing, never by discarding", *_staleness(run)),
        ("With a bound of 0 the loop is the synchronous one", "Left to the test suite", synchronous),
        ("A publication is proved, not assumed", *_publication(run)),
        ("A learning rate of 0 changes nothing", *_stillness(run)),
        ("Nothing hangs: every wait has a deadline", *_ended(run)),
        ("Any actor may die, and the ledger still balances", *_survival(run)),
        ("The staleness that theory allows is checked", *_delay(run)),
        ("Overlap is measured against its bound", *_overlap(run)),
    ]
