"""Best of n is the mean over every set of n, by enumeration; and its KL is that of the formula and of simulation."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from algorithms.best_of_n import best_of_n, kl_of_best_of_n, rank_weights


def by_enumeration(proxy: list[float], gold: list[float], n: int) -> float:
    """Every set of n once; where the proxy ties, each of the best equally often."""
    worths = []
    for chosen in combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in chosen)
        worths.append(np.mean([gold[i] for i in chosen if proxy[i] == best]))
    return float(np.mean(worths))


@given(st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 2.0, 5.0]), st.floats(-3, 3)), min_size=1, max_size=7), st.data())
def test_equals_the_mean_over_all_sets_also_where_the_proxy_ties(
    answers: list[tuple[float, float]], data: st.DataObject
) -> None:
    proxy, gold = [p for p, _ in answers], [g for _, g in answers]
    n = data.draw(st.integers(1, len(answers)))
    assert best_of_n(proxy, gold, n) == pytest.approx(by_enumeration(proxy, gold, n), abs=1e-9)


def test_one_is_the_mean_and_all_is_the_best() -> None:
    proxy, gold = [0.3, 0.1, 0.9], [5.0, 1.0, -2.0]
    assert best_of_n(proxy, gold, 1) == pytest.approx(np.mean(gold))
    assert best_of_n(proxy, gold, 3) == pytest.approx(-2.0)


@given(st.permutations(range(6)), st.integers(1, 6))
def test_the_order_of_answers_does_not_matter(order: list[int], n: int) -> None:
    proxy, gold = np.array([1.0, 1.0, 2.0, 0.0, 2.0, 3.0]), np.array([4.0, 1.0, 0.0, 2.0, 7.0, 1.0])
    assert best_of_n(proxy[order], gold[order], n) == pytest.approx(best_of_n(proxy, gold, n))


@pytest.mark.parametrize("n", [1, 2, 17, 2000, 12_500])
def test_weights_are_probabilities_also_for_many_answers(n: int) -> None:
    weights = rank_weights(12_500, n)
    assert weights.sum() == pytest.approx(1.0, abs=1e-9)
    assert (weights >= 0.0).all()
    assert not weights[: n - 1].any()


def test_a_proxy_that_is_wrong_at_its_top_is_seen_to_be() -> None:
    """Gold agrees with the proxy but for the answer that the proxy likes best: the curve rises, then falls."""
    proxy = np.arange(16.0)
    gold = np.where(proxy == 15.0, -20.0, proxy)
    curve = [best_of_n(proxy, gold, n) for n in (1, 2, 4, 16)]
    assert curve[0] < curve[1] > curve[2] > curve[3] == -20.0


@pytest.mark.parametrize(
    ("n", "published"),
    [(2, 0.193), (4, 0.636), (8, 1.204), (16, 1.835), (64, 3.175), (256, 4.549), (1000, 5.909), (12_500, 8.434)],
)
def test_kl_is_the_published_one(n: int, published: float) -> None:
    assert kl_of_best_of_n(n) == pytest.approx(published, abs=6e-4)


def test_kl_is_that_of_the_distribution_of_the_best() -> None:
    """Of N equally likely answers the best of n drawn with replacement has rank i with (i^n - (i-1)^n) / N^n."""
    count, n = 20_000, 4
    edges = (np.arange(count + 1) / count) ** n
    best = np.diff(edges)
    assert kl_of_best_of_n(n) == pytest.approx(float((best * np.log(best * count)).sum()), abs=1e-3)
    assert kl_of_best_of_n(1) == 0.0


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="draws 1 to 2 of 2 answers, got n = 3"):
        best_of_n([1.0, 2.0], [1.0, 2.0], 3)
    with pytest.raises(ValueError, match="proxy and gold"):
        best_of_n([1.0, float("nan")], [1.0, 2.0], 1)
    with pytest.raises(ValueError, match="n >= 1"):
        kl_of_best_of_n(0)
