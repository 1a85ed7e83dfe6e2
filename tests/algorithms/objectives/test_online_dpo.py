"""The online DPO objective: every option changes what it says, and impossible combinations are refused."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms import pair_losses
from algorithms.objective import OBJECTIVES, Anchor, Objective, PairLogProbs, build_objective, reward_difference
from algorithms.sampling import Role, SamplingPlan, Update
from tests.algorithms.pair_examples import random_pairs, worked_pair

SWITCHES: dict[str, dict[str, Any]] = {
    "dpo": {},
    "beta": {"beta": 0.3},
    "cdpo": {"label_smoothing": 0.1},
    "rdpo": {"label_smoothing": 0.1, "smoothing": "robust"},
    "soft": {"targets": "soft"},
    "forward kl": {"divergence": "forward_kl"},
    "jensen-shannon": {"divergence": "jensen_shannon"},
    "alpha": {"divergence": "alpha"},
    "alpha 0.3": {"divergence": "alpha", "alpha": 0.3},
    "rpo pang": {"sft_weight": 0.5},
    "rpo liu": {"sft_weight": 0.5, "sft": "sum"},
    "dpo length-averaged": {"link": "logistic_length_averaged"},
    "ipo": {"link": "ipo"},
    "ipo soft": {"link": "ipo", "targets": "soft"},
    "ipo length-averaged": {"link": "ipo_length_averaged"},
    "hinge": {"link": "hinge"},
    "slic": {"link": "slic", "margin": 10.0},
    "slic margin": {"link": "slic", "margin": 11.0},
    "slic-hf": {"link": "slic", "margin": 10.0, "sft_weight": 0.1},
    "simpo": {"link": "simpo"},
    "simpo margin": {"link": "simpo", "margin": 0.5},
    "asft": {"link": "asft"},
    "asft weight": {"link": "asft", "odds_weight": 0.2},
    "orpo": {"link": "orpo"},
    "sppo hard": {"link": "sppo_hard"},
}
ANCHORED = [name for name, options in SWITCHES.items() if options.get("link") not in ("slic", "simpo", "asft", "orpo")]


def online_dpo(**options: Any) -> Objective:
    return build_objective("online_dpo", options)


def test_margin_is_the_difference_of_log_ratios_and_antisymmetric() -> None:
    pairs = random_pairs()
    swapped = replace(
        pairs,
        first=pairs.second,
        second=pairs.first,
        anchor_first=pairs.anchor_second,
        anchor_second=pairs.anchor_first,
    )
    expected = pairs.first - pairs.anchor_first - pairs.second + pairs.anchor_second
    assert torch.allclose(pairs.margin, expected)
    assert torch.equal(pairs.margin, -swapped.margin)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"link": "asft", "odds_weight": 1.0}, 2.0 + 2.1908868667),
        ({"link": "orpo", "odds_weight": 1.0}, 2.0 + 0.8517574831),
        ({"link": "slic", "sft_weight": 0.1}, 1.0),
        ({"link": "simpo", "beta": 2.0}, 1.7014132780),
        ({"link": "sppo_hard"}, 25.0),
        ({"divergence": "alpha", "alpha": 0.3}, 0.5290823099),
        ({"sft_weight": 1.0}, 2.5543552445),
        ({"sft_weight": 0.5, "sft": "sum"}, 0.5543552445 + 0.5 * 0.1 * 10.0),
    ],
)
def test_worked_values(options: dict[str, Any], expected: float) -> None:
    assert online_dpo(**options).loss(worked_pair()).item() == pytest.approx(expected, abs=1e-9)


def test_every_switch_changes_the_loss() -> None:
    losses = {name: online_dpo(**options).loss(random_pairs()) for name, options in SWITCHES.items()}
    for one, other in combinations(losses, 2):
        assert not torch.allclose(losses[one], losses[other]), (one, other)


def test_links_are_the_functions_they_are_named_after() -> None:
    pairs = random_pairs()
    h, target = pairs.margin, pairs.target
    expected = {
        "dpo": pair_losses.logistic(h, 0.1),
        "beta": pair_losses.logistic(h, 0.3),
        "cdpo": pair_losses.logistic_conservative(h, 0.1, 0.1),
        "rdpo": pair_losses.logistic_robust(h, 0.1, 0.1),
        "soft": pair_losses.logistic_soft(h, 0.1, target),
        "ipo": pair_losses.ipo(h, 0.1),
        "ipo soft": pair_losses.ipo_soft(h, 0.1, target),
        "ipo length-averaged": pair_losses.ipo_length_averaged(pairs, 0.1),
        "hinge": pair_losses.hinge(h, 0.1),
    }
    for name, wanted in expected.items():
        loss = online_dpo(**SWITCHES[name]).loss(pairs)
        assert loss.shape == (4,)
        assert torch.equal(loss, wanted), name


@pytest.mark.parametrize("name", ANCHORED)
def test_descending_the_loss_widens_the_margin_of_a_pair_at_the_anchor(name: str) -> None:
    pairs = random_pairs()
    up, down = slopes(
        name,
        replace(
            pairs,
            first=pairs.anchor_first.clone().requires_grad_(),
            second=pairs.anchor_second.clone().requires_grad_(),
        ),
    )
    assert (up < 0).all()
    assert (down > 0).all()


@pytest.mark.parametrize("name", sorted(SWITCHES.keys() - set(ANCHORED)))
def test_links_without_an_anchor_raise_the_winner_and_lower_the_loser(name: str) -> None:
    up, down = slopes(name, random_pairs())
    assert (up < 0).all()
    assert (down > 0).all()


def slopes(name: str, pairs: PairLogProbs) -> tuple[Tensor, ...]:
    loss = online_dpo(**SWITCHES[name]).loss(pairs).sum()
    return torch.autograd.grad(loss, (pairs.first, pairs.second))


def test_the_four_choices() -> None:
    objective = online_dpo(candidates=4, beta=0.25, pair_choice="all")
    assert objective.name == "online_dpo"
    assert objective.sampling == SamplingPlan(roles=(Role(name="pair", count=4),))
    assert objective.update == Update()
    assert objective.anchor == Anchor(reference=1.0, iterate=0.0)
    assert objective.reward_scale == 0.25
    assert "opponent" in objective.staleness_tolerance


@pytest.mark.parametrize("name", ["dpo", "dpo length-averaged"])
def test_the_logged_reward_difference_is_what_the_loss_sees(name: str) -> None:
    pairs, objective = random_pairs(), online_dpo(**SWITCHES[name])
    assert torch.allclose(-torch.nn.functional.logsigmoid(reward_difference(objective, pairs)), objective.loss(pairs))


def test_a_longer_winner_can_gain_in_sum_and_lose_a_token() -> None:
    one = random_pairs(1)
    pairs = replace(
        one,
        first=one.anchor_first + 3.0,
        second=one.anchor_second + 2.0,
        first_length=torch.tensor([30.0]),
        second_length=torch.tensor([10.0]),
    )
    differences = [
        reward_difference(online_dpo(**SWITCHES[n], beta=2.0), pairs) for n in ("dpo", "dpo length-averaged")
    ]
    assert torch.allclose(torch.cat(differences), torch.tensor([2.0, -0.2]).double())


def test_pair_choice_and_soft_targets() -> None:
    scores = np.arange(4.0)
    preference = (1.0 + np.sign(scores[:, None] - scores[None, :])) / 2.0
    assert len(online_dpo(pair_choice="all").pairs(preference, "abcd", 0)) == 6
    assert len(online_dpo(pair_choice="random").pairs(preference, "abcd", 0)) == 1
    best = online_dpo().pairs(preference, "abcd", 0)
    assert (best.first.tolist(), best.second.tolist()) == ([3], [0])
    mild = np.array([[0.5, 0.3], [0.7, 0.5]])
    assert online_dpo().pairs(mild, "ab", 0).target.tolist() == [0.7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 0.5, "smoothing": "robust"}, "below 0.5"),
        ({"label_smoothing": 0.6}, "below 0.5"),
        ({"label_smoothing": -0.1}, "label_smoothing"),
        ({"label_smoothing": 0.1, "link": "ipo"}, "not for 'ipo'"),
        ({"label_smoothing": 0.1, "link": "hinge"}, "not for 'hinge'"),
        ({"label_smoothing": 0.1, "targets": "soft"}, "set label_smoothing to 0"),
        ({"targets": "soft", "link": "hinge"}, "'hinge' needs 'hard'"),
        ({"targets": "soft", "link": "ipo_length_averaged"}, "needs 'hard'"),
        ({"divergence": "alpha", "link": "ipo"}, "divergence is defined for link 'logistic', not for 'ipo'"),
        ({"alpha": 0.3}, "alpha belongs to divergence 'alpha'"),
        ({"sft_weight": 0.1, "link": "ipo"}, "'logistic' and 'slic', not for 'ipo'"),
        ({"margin": 2.0}, "margin is defined for link 'slic' and 'simpo'"),
        ({"odds_weight": 0.2}, "odds_weight is defined for link 'asft' and 'orpo'"),
        ({"beta": 0.0}, "beta"),
        ({"beta": float("inf")}, "beta"),
        ({"candidates": 1}, "candidates"),
        ({"link": "square"}, "link"),
        ({"label_smooting": 0.1}, "unknown option 'label_smooting'; nearest is 'label_smoothing'"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        online_dpo(**options)


def test_an_unknown_objective_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown objective 'onlinedpo'; nearest is 'online_dpo'"):
        build_objective("onlinedpo", {})


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_registered_objective_is_built_from_its_defaults_under_its_name(name: str) -> None:
    objective = build_objective(name, {})
    assert objective.name == name
    assert objective.sampling.candidates >= 2
    assert objective.anchor.reference + objective.anchor.iterate == pytest.approx(1.0)


def test_the_anchor_combines_only_the_models_it_weighs() -> None:
    reference, iterate = torch.tensor([-2.0]), torch.tensor([-4.0])
    assert Anchor(reference=0.25, iterate=0.75).combine(reference, iterate).item() == -3.5
    assert Anchor(reference=1.0, iterate=0.0).combine(reference, None) is not None
    assert Anchor(reference=0.0, iterate=1.0).combine(None, iterate).item() == -4.0
    with pytest.raises(ValueError, match="lacks"):
        Anchor(reference=0.5, iterate=0.5).combine(reference, None)
    with pytest.raises(ValueError, match="anchors to nothing"):
        Anchor(reference=0.0, iterate=0.0).combine(reference, iterate)
