"""Sampling plan and update rule: which named policies exist, when each is published, who writes which candidates.

Versions count the batches that the learner has consumed; the weights after v batches are version v. Which named
policies get new weights with a version follows from the update rule alone, so a candidate's age can be told from its
policy's name and version, on every process, without asking the learner.

    current      the policy under training
    half         the look-ahead of the extragradient rules
    latest       whichever of these two was published last, where they alternate under one name
    iterate      the policy at the start of an iteration: the anchor of iterative methods
    mixture      parameters between the policy and the reference
    previous(k)  `current` k publications ago
    reference    the start, never changed
    teacher      another model, never changed
"""

import re
from dataclasses import dataclass
from typing import Literal

Rule = Literal["step", "extragradient", "past_extragradient"]
"""How gradients move the policy (theta; theta' is published as `half`).

`step`: theta <- step(theta; batch).
`extragradient` (EGPO, 2503.08942; `algorithms.md` of its repository): even versions theta' <- step(theta; batch), odd
versions theta <- step(theta; batch), both from the same theta, optimizer moments and learning rate.
`past_extragradient` (Popov): theta <- step(theta; batch), then theta' <- step(theta; same batch), which is published;
the learner goes on from theta, and from its moments.
"""

_PREVIOUS = re.compile(r"previous\((\d+)\)")
FIXED = ("reference", "teacher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Candidates that a named policy writes for one purpose."""

    name: Literal["pair", "opponent"]
    """`pair`: candidates that the loss compares. `opponent`: candidates that only define win rates."""
    count: int
    policies: tuple[str, ...] = ("current",)
    """One name; or one for each turn: the batch of version v takes `policies[v % len(policies)]`."""
    staleness: int | None = None
    """Updates of its policy that may lie between sampling and training; none: whatever `loop.eta` allows."""
    temperature: float | None = None
    """None samples as the run's `rollout` says."""
    top_k: int | None = None

    def policy_at(self, version: int) -> str:
        """The policy that writes this role for the batch of `version`."""
        return self.policies[version % len(self.policies)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPlan:
    """Who writes the candidates of a group, in the order in which they stand in it."""

    roles: tuple[Role, ...]

    @property
    def candidates(self) -> int:
        """K: candidates of a group, of all roles."""
        return sum(role.count for role in self.roles)

    def indices(self, name: str) -> tuple[int, ...]:
        """Places in the group of the candidates with this role."""
        owners = [role.name for role in self.roles for _ in range(role.count)]
        return tuple(i for i, owner in enumerate(owners) if owner == name)

    @property
    def policies(self) -> tuple[str, ...]:
        """Every named policy that writes candidates, in order of first mention."""
        return tuple(dict.fromkeys(policy for role in self.roles for policy in role.policies))


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """How the learner moves from version to version, and what it remembers meanwhile."""

    rule: Rule = "step"
    iteration: int = 1
    """Versions after which the iterate pi_t becomes the current policy; 1 makes them the same."""
    momentum: float = 0.0
    """APO (2410.06293): at the end of an iteration theta <- theta + momentum (theta - the last iteration's theta)."""
    mixture: float = 0.0
    """Weight of the reference's parameters in the policy `mixture`."""
    alternate: bool = False
    """The two policies of `extragradient` go by one name, `latest`: half at odd versions, current at even ones."""
    replay: tuple[float, ...] = ()
    """Shares of a batch of groups that are trained again one, two, ... iterations later."""

    def __post_init__(self) -> None:
        if self.iteration < 1:
            raise ValueError(f"an iteration has at least 1 version, got {self.iteration}")
        if self.rule == "extragradient" and self.iteration % 2 and (self.iteration > 1 or self.momentum):
            raise ValueError(
                f"iteration is {self.iteration} versions; with the rule 'extragradient' it has to end on a whole "
                "update, which takes 2: give an even number"
            )
        if self.alternate and self.rule != "extragradient":
            raise ValueError(f"the rule {self.rule!r} publishes one policy, and nothing alternates with it")

    @property
    def evaluated(self) -> str:
        """The policy that stands for the run: the one whose win rates are reported (`latest` at even versions)."""
        if self.alternate:
            return "latest"
        return "half" if self.rule == "past_extragradient" else "current"

    def published(self, version: int) -> tuple[str, ...]:
        """Names that get new weights with `version`; at version 0 all start from the same weights."""
        names: tuple[str, ...] = {
            "step": ("current",),
            "extragradient": ("current", "half") if version == 0 else (("current", "half")[version % 2],),
            "past_extragradient": ("half",),
        }[self.rule]
        names = ("latest",) if self.alternate else names
        names += ("iterate",) if version % self.iteration == 0 else ()
        return names + (("mixture",) if self.mixture else ())

    def newest(self, policy: str, version: int) -> int:
        """Version of the newest weights of `policy` when the learner stands at `version`.

        Raises: ValueError for a name that this rule never publishes.
        """
        if policy in FIXED:
            return 0
        if match := _PREVIOUS.fullmatch(policy):
            source = self.evaluated
            return max(self.newest(source, version) - int(match[1]) * self.period(source), 0)
        if policy not in self.published(0):
            known = ", ".join([*self.published(0), "previous(k)", *FIXED])
            raise ValueError(f"no policy {policy!r} is published by the rule {self.rule!r}; there are {known}")
        found = version
        while policy not in self.published(found):
            found -= 1
        return found

    def period(self, policy: str) -> int:
        """Versions between two publications of `policy`."""
        if policy == "iterate":
            return self.iteration
        return 2 if self.rule == "extragradient" and policy != "latest" else 1

    def age(self, policy: str, sampled: int, trained: int) -> int:
        """Updates of `policy` between the weights of version `sampled` and a batch trained at version `trained`."""
        if policy in FIXED:
            return 0
        newest = self.newest(policy, trained)
        return max(-(-(newest - sampled) // self.period(previous_of(policy, self.evaluated))), 0)


def stages(plan: SamplingPlan, eta: int) -> tuple[tuple[Role, ...], tuple[Role, ...], int]:
    """Roles that are sampled when a group is admitted, those that wait, and the staleness these may reach.

    A group is admitted up to `eta` versions before it is trained. Roles that may not be that old wait until its batch
    is near enough; they have to stand behind the others in the plan.
    """
    waits = [role.staleness is not None and role.staleness < eta for role in plan.roles]
    if waits != sorted(waits):
        raise ValueError(f"roles that wait for fresh weights have to come last in the plan, got {plan.roles}")
    late = tuple(role for role, wait in zip(plan.roles, waits, strict=True) if wait)
    bound = min((role.staleness for role in late if role.staleness is not None), default=eta)
    return plan.roles[: len(plan.roles) - len(late)], late, bound


def served_policies(plan: SamplingPlan, update: Update) -> tuple[str, ...]:
    """Every named policy that a run samples from: those of the plan, and the one that is evaluated."""
    return tuple(dict.fromkeys((update.evaluated, *plan.policies)))


def previous_of(policy: str, evaluated: str) -> str:
    """The policy whose publications a name follows: `previous(k)` those of the evaluated policy."""
    return evaluated if _PREVIOUS.fullmatch(policy) else policy


def steps_back(policy: str) -> int | None:
    """k of `previous(k)`, none for another name."""
    match = _PREVIOUS.fullmatch(policy)
    return int(match[1]) if match else None
