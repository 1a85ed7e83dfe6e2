"""The contract of preference matrices: exact antisymmetry, and errors that name the pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from algorithms.preference import (
    FloatArray,
    InvalidPreference,
    antisymmetric,
    cyclic_share,
    majority,
    penalise_truncated,
    sampled_labels,
    with_flips,
)

ROCK_PAPER_SCISSORS = np.array([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])


@st.composite
def raw_matrices(draw: st.DrawFn, tolerance: float = 1e-6) -> FloatArray:
    """What an honest scorer returns: complementary up to rounding, anything legal on the diagonal."""
    count = draw(st.integers(1, 6))
    upper = draw(hnp.arrays(np.float64, (count, count), elements=st.floats(0.0, 1.0)))
    noise = draw(hnp.arrays(np.float64, (count, count), elements=st.floats(-0.9, 0.9))) * tolerance
    return np.asarray(np.where(np.tri(count, k=-1), np.clip(1.0 - upper.T + noise, 0.0, 1.0), upper))


@given(raw_matrices())
def test_the_result_is_antisymmetric_bit_for_bit(raw: FloatArray) -> None:
    matrix = antisymmetric(raw)
    assert (matrix + matrix.T == 1.0).all()
    assert (1.0 - matrix == matrix.T).all()
    assert (np.diag(matrix) == 0.5).all()
    assert ((matrix >= 0.0) & (matrix <= 1.0)).all()
    off_diagonal = ~np.eye(len(raw), dtype=bool)
    assert np.abs(matrix - raw)[off_diagonal].max(initial=0.0) <= 1e-6


@given(raw_matrices(), st.randoms())
def test_relabelling_candidates_commutes_and_nothing_changes_twice(raw: FloatArray, random: object) -> None:
    order = np.random.default_rng(hash(random) % 2**32).permutation(len(raw))
    matrix = antisymmetric(raw)
    assert (antisymmetric(raw[np.ix_(order, order)]) == matrix[np.ix_(order, order)]).all()
    assert (antisymmetric(matrix) == matrix).all()


def test_averages_the_two_orders() -> None:
    matrix = antisymmetric([[0.5, 0.70], [0.34, 0.5]], tolerance=0.05)
    assert matrix[0, 1] == pytest.approx(0.68)


def test_the_error_names_the_worst_pair_and_both_numbers() -> None:
    raw = [[0.5, 0.7, 0.501], [0.3, 0.5, 0.9], [0.5, 0.25, 0.5]]
    with pytest.raises(InvalidPreference, match=r"\(1, 2\): P\[1,2\] = 0.9 and P\[2,1\] = 0.25"):
        antisymmetric(raw)
    assert antisymmetric(raw, tolerance=0.16).shape == (3, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.01, 1.01])
def test_what_is_no_probability_is_refused_with_its_pair(bad: float) -> None:
    raw = np.full((3, 3), 0.5)
    raw[2, 1] = bad
    with pytest.raises(InvalidPreference, match=rf"\(2, 1\): P\[2,1\] = {bad} .*P\[1,2\] = 0.5"):
        antisymmetric(raw)


def test_a_matrix_that_is_not_square_is_refused() -> None:
    with pytest.raises(InvalidPreference, match="square"):
        antisymmetric(np.full((2, 3), 0.5))


def test_majority_of_transitive_members_can_be_a_cycle() -> None:
    ranks = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]], dtype=float)
    members = 1.0 / (1.0 + np.exp(ranks[:, :, None] - ranks[:, None, :]))
    verdict = majority(members)
    assert [cyclic_share(member) for member in members] == [0.0, 0.0, 0.0]
    assert cyclic_share(verdict) == 1.0
    assert set(np.unique(verdict)) == {0.0, 0.5, 1.0}


def test_majority_counts_votes_not_confidence_and_ties_are_half() -> None:
    loud, quiet = [[0.5, 1.0], [0.0, 0.5]], [[0.5, 0.49], [0.51, 0.5]]
    assert majority([loud, quiet, quiet])[0, 1] == 0.0
    assert majority([loud, quiet])[0, 1] == 0.5
    assert majority([loud, [[0.5, 0.5], [0.5, 0.5]]])[0, 1] == 1.0


@given(raw_matrices(), st.integers(0, 3))
def test_majority_is_exactly_antisymmetric(raw: FloatArray, copies: int) -> None:
    matrix = antisymmetric(raw)
    verdict = majority([matrix, *[matrix.T] * copies])
    assert (verdict + verdict.T == 1.0).all()


def test_cyclic_share_of_known_matrices() -> None:
    scores = np.arange(5.0)
    transitive = 1.0 / (1.0 + np.exp(scores[None, :] - scores[:, None]))
    assert cyclic_share(ROCK_PAPER_SCISSORS) == 1.0
    assert cyclic_share(transitive) == 0.0
    assert cyclic_share(np.full((4, 4), 0.5)) == 0.0
    assert cyclic_share(ROCK_PAPER_SCISSORS[:2, :2]) == 0.0
    four = np.full((4, 4), 0.5)
    four[:3, :3] = ROCK_PAPER_SCISSORS
    four[3, :3], four[:3, 3] = 1.0, 0.0
    assert cyclic_share(four) == 1 / 4


@given(raw_matrices(), st.floats(0.0, 1.0), st.data())
def test_truncation_penalty_keeps_the_matrix_exact_and_moves_one_way(
    raw: FloatArray, penalty: float, data: st.DataObject
) -> None:
    matrix = antisymmetric(raw)
    truncated = data.draw(hnp.arrays(np.bool_, len(matrix)))
    moved = penalise_truncated(matrix, truncated, penalty)
    assert (moved + moved.T == 1.0).all()
    only_row = truncated[:, None] & ~truncated[None, :]
    assert np.allclose(moved[only_row], (1.0 - penalty) * matrix[only_row], atol=1e-15)
    assert (moved[truncated[:, None] == truncated[None, :]] == matrix[truncated[:, None] == truncated[None, :]]).all()
    assert (penalise_truncated(matrix, truncated, 0.0) == matrix).all()
    assert (penalise_truncated(matrix, truncated, 1.0)[only_row] == 0.0).all()


def test_truncation_penalty_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        penalise_truncated(ROCK_PAPER_SCISSORS, np.zeros(3, dtype=bool), 1.5)
    with pytest.raises(ValueError, match="3 candidates"):
        penalise_truncated(ROCK_PAPER_SCISSORS, np.zeros(2, dtype=bool), 0.5)


@given(raw_matrices(), st.floats(0.0, 0.5), st.integers(0, 2**31))
def test_noisy_labels_stay_exactly_antisymmetric(raw: FloatArray, flip_rate: float, seed: int) -> None:
    matrix = antisymmetric(raw)
    noisy = with_flips(matrix, flip_rate)
    assert np.allclose(noisy - 0.5, (1.0 - 2.0 * flip_rate) * (matrix - 0.5), atol=1e-15)
    for labels in (noisy, sampled_labels(noisy, seed)):
        assert (labels + labels.T == 1.0).all()
        assert (labels.diagonal() == 0.5).all()
    assert (with_flips(matrix, 0.0) == matrix).all()


def test_drawn_labels_are_certain_where_the_probability_is() -> None:
    for seed in range(20):
        np.testing.assert_array_equal(sampled_labels(ROCK_PAPER_SCISSORS, seed), ROCK_PAPER_SCISSORS)


def test_a_flip_rate_above_one_half_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.6; above, preferences are reversed"):
        with_flips(ROCK_PAPER_SCISSORS, 0.6)
