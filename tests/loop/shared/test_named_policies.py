"""Named policies on real engines: each candidate is from the policy and the version that its role asks for."""

import pytest

from tests.loop.support import Outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_extragradient_meets_the_policy_of_its_phase(extragradient: Outcome) -> None:
    """Two adapters in one engine. Opponents: `current` at even versions, `half` at odd ones, never an update old."""
    summary = extragradient.succeeded().summary
    for version, group in extragradient.trained():
        pairs, opponents = group.candidates[:2], group.candidates[2:]
        assert [c.role for c in pairs + opponents] == ["pair", "pair", "opponent", "opponent"]
        assert {c.policy for c in pairs} == {"current"}
        assert {c.policy for c in opponents} == {("current", "half")[version % 2]}
        assert {c.oldest_version for c in opponents} == {version}
    staleness = summary["staleness"]
    assert staleness["opponent"] == {"bound": 0, "max": 0, "mean": 0, "histogram": {"0": 32}}
    assert 0 < staleness["max"] <= staleness["bound"] == 2, "pairs are sampled ahead, opponents are not"
    assert sum(int(n) for n in staleness["histogram"].values()) == summary["ledger"]["trained"] == 32


def test_every_publication_of_either_name_is_proved(extragradient: Outcome) -> None:
    published = [event["version"] for event in extragradient.succeeded().events("published")]
    assert published == list(range(9))
    assert 0 < extragradient.summary["mismatch"]["max_abs_logprob"] < 1e-3


def test_policies_that_alternate_share_an_engine_also_with_full_weights(alternating: Outcome) -> None:
    """The engine holds the look-ahead at odd versions, the current policy at even ones; opponents are never older."""
    for version, group in alternating.succeeded().trained():
        assert {c.policy for c in group.candidates} == {"latest"}
        assert {c.oldest_version for c in group.candidates if c.role == "opponent"} == {version}
        assert group.engine == "engine-0"
    assert [event["version"] for event in alternating.events("published")] == list(range(7))
    assert 0 < alternating.summary["staleness"]["max"] <= 2, "pairs are sampled ahead, of either policy"


def test_with_full_weights_each_policy_has_engines_of_its_own(optimistic: Outcome) -> None:
    """Opponents: the current policy, and the one before it, which the second engine holds."""
    for version, group in optimistic.succeeded().trained():
        opponents = [c for c in group.candidates if c.role == "opponent"]
        versions = {policy: {c.oldest_version for c in opponents if c.policy == policy} for policy in POLICIES}
        assert versions == {"current": {version}, "previous(1)": {max(version - 1, 0)}}
        assert set(group.engine.split("+")) == {"engine-0", "previous(1)-0"}
    assert optimistic.summary["staleness"]["opponent"]["max"] == 0


POLICIES = ("current", "previous(1)")
