"""The delay rule on what a run measured: how old its opponents may be before the updates start to rotate away.

Near the equilibrium of a regularised game a mirror step with step size eta and temperature beta tolerates opponents
that are d updates old while d < beta / (eta s^2) - 1/2, and extragradient one update more; s, the speed of rotation,
is at most 1 / (2 sqrt 2) in any preference game. A small-step rule; see `algorithms/games/stability.py`.
"""

from dataclasses import dataclass

from algorithms.games.stability import Method, safe_delay
from algorithms.objective import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayRule:
    """Delays are in updates of the opponents' policy."""

    moved_share: float
    """Measured: share of the way to its target that a pair's margin goes in one update; eta * beta."""
    step_size: float
    """eta of the mirror step that this is."""
    temperature: float
    """beta of the game that the anchor pulls to."""
    limit: float | None
    """Delays below it are stable in every preference game; none where the policy did not move, or away."""
    delay: int
    """The oldest opponents that were trained on."""

    @property
    def kept(self) -> bool | None:
        """Whether the run stayed below the limit."""
        return None if self.limit is None else self.delay < self.limit


def delay_rule(objective: Objective, moved_share: float, delay: int) -> DelayRule | None:
    """The rule for an objective; none for one whose anchor leaves the reference: no delay is safe there for ever.

    An anchored regression with target `scale` times the win rates, a share m of whose way is gone in an update, is the
    mirror step with eta = m scale; the anchor's weight on the reference is eta beta at m = 1.
    """
    if objective.anchor.reference == 0.0:
        return None
    scale = 1.0 / objective.reward_scale
    step_size, temperature = moved_share * scale, objective.anchor.reference / scale
    method: Method = "omd" if objective.update.rule == "step" else "egpo"
    limit = safe_delay(method, step_size, temperature) if moved_share > 0.0 else None
    return DelayRule(moved_share=moved_share, step_size=step_size, temperature=temperature, limit=limit, delay=delay)
