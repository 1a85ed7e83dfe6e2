"""Named policies: when each is published, how old a candidate is, and which roles wait for fresh weights."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.sampling import Role, Rule, SamplingPlan, Update, served_policies, stages, steps_back

RULES: tuple[Rule, ...] = ("step", "extragradient", "past_extragradient")


def test_extragradient_publishes_by_turns() -> None:
    update = Update(rule="extragradient")
    assert [set(update.published(version)) - {"iterate"} for version in range(5)] == [
        {"current", "half"},
        {"half"},
        {"current"},
        {"half"},
        {"current"},
    ]
    assert [update.newest("current", version) for version in range(6)] == [0, 0, 2, 2, 4, 4]
    assert [update.newest("half", version) for version in range(6)] == [0, 1, 1, 3, 3, 5]
    assert [update.newest("previous(1)", version) for version in range(6)] == [0, 0, 0, 0, 2, 2]


def test_alternating_policies_share_a_name_that_is_always_new() -> None:
    update = Update(rule="extragradient", alternate=True)
    assert [update.published(version) for version in range(4)] == [("latest", "iterate")] * 4
    assert [update.newest("latest", version) for version in range(4)] == [0, 1, 2, 3]
    assert update.age("latest", 2, 3) == 1, "the look-ahead is no current policy, nor the other way round"
    assert served_policies(SamplingPlan(roles=(Role(name="pair", count=2, policies=("latest",)),)), update) == (
        "latest",
    )
    with pytest.raises(ValueError, match="the rule 'step' publishes one policy"):
        Update(alternate=True)


def test_past_extragradient_shows_only_its_look_ahead() -> None:
    update = Update(rule="past_extragradient")
    assert update.evaluated == "half"
    assert "current" not in update.published(3)
    with pytest.raises(ValueError, match="no policy 'current' is published by the rule 'past_extragradient'"):
        update.newest("current", 3)


@given(rule=st.sampled_from(RULES), iteration=st.sampled_from([2, 4, 6]), version=st.integers(0, 40))
def test_the_newest_weights_of_a_policy_are_those_last_published(rule: Rule, iteration: int, version: int) -> None:
    update = Update(rule=rule, iteration=iteration)
    for policy in update.published(0):
        found = update.newest(policy, version)
        assert policy in update.published(found)
        assert not any(policy in update.published(v) for v in range(found + 1, version + 1))
        assert update.age(policy, found, version) == 0


@given(rule=st.sampled_from(RULES), version=st.integers(0, 40), older=st.integers(0, 40))
def test_age_counts_publications(rule: Rule, version: int, older: int) -> None:
    update = Update(rule=rule, iteration=4)
    for policy in update.published(0):
        sampled = update.newest(policy, max(version - older, 0))
        between = [v for v in range(sampled + 1, version + 1) if policy in update.published(v)]
        assert update.age(policy, sampled, version) == len(between)


def test_fixed_policies_never_age() -> None:
    update = Update()
    assert update.age("reference", 0, 1000) == update.age("teacher", 0, 1000) == 0
    assert update.age("previous(2)", 8, 10) == 0
    assert update.age("previous(2)", 7, 10) == 1
    assert (steps_back("previous(12)"), steps_back("current")) == (12, None)


def test_an_iteration_of_extragradient_ends_on_a_whole_update() -> None:
    Update(rule="extragradient", iteration=4, momentum=0.3)
    with pytest.raises(ValueError, match="give an even number"):
        Update(rule="extragradient", iteration=3)
    with pytest.raises(ValueError, match="give an even number"):
        Update(rule="extragradient", momentum=0.3)
    with pytest.raises(ValueError, match="at least 1 version"):
        Update(iteration=0)


def plan(*staleness: int | None) -> SamplingPlan:
    names = ("pair", "opponent", "opponent")
    return SamplingPlan(
        roles=tuple(Role(name=n, count=2, staleness=s) for n, s in zip(names, staleness, strict=False))  # type: ignore[arg-type]
    )


def test_roles_that_may_not_be_as_old_as_the_loop_wait() -> None:
    early, late, bound = stages(plan(None, 1, 0), eta=2)
    assert [role.name for role in early] == ["pair"]
    assert [role.staleness for role in late] == [1, 0]
    assert bound == 0
    early, late, bound = stages(plan(None, 2), eta=2)
    assert (len(early), late, bound) == (2, (), 2), "nothing waits that may be as old as the loop allows"
    assert stages(plan(None, 0), eta=0)[1] == (), "the synchronous loop has nothing to wait for"
    with pytest.raises(ValueError, match="have to come last"):
        stages(plan(0, None), eta=2)


def test_a_plan_knows_who_stands_where() -> None:
    turns = Role(name="opponent", count=3, policies=("current", "half"))
    found = SamplingPlan(roles=(Role(name="pair", count=2, policies=("reference",)), turns))
    assert found.candidates == 5
    assert (found.indices("pair"), found.indices("opponent")) == ((0, 1), (2, 3, 4))
    assert [turns.policy_at(version) for version in range(3)] == ["current", "half", "current"]
    assert served_policies(found, Update(rule="extragradient")) == ("current", "reference", "half")
