"""First-order changes against real gradient steps of a small language model, and when both answers move right."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from algorithms.entanglement import Entanglement, last_layer_products

STEP = 1e-5
PROMPT = [5, 6, 7]
PAIRS = [([10, 11, 12], [10, 11, 13]), ([20, 30], [40, 50, 60, 70]), ([9, 9, 9], [9, 9, 9, 9])]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoModelForCausalLM

    from tests.tiny import make_model

    folder: Path = make_model(tmp_path_factory.mktemp("entangled"), layers=1, hidden=32)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)


def products(chosen: Tensor, rejected: Tensor, parameters: list[Tensor]) -> list[float]:
    """(|G_w|^2, |G_l|^2, <G_w, G_l>) by autograd, of two log-probabilities in these parameters."""
    w, l = (  # noqa: E741
        torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)])
        for value in (chosen, rejected)
    )
    return [float(w @ w), float(l @ l), float(w @ l)]


def logprob(model: Any, answer: list[int]) -> Tensor:
    """log pi(answer | prompt)."""
    ids = torch.tensor([PROMPT + answer])
    values = model(ids).logits[0].log_softmax(-1)
    places = torch.arange(len(PROMPT) - 1, ids.shape[1] - 1)
    total: Tensor = values[places, ids[0, len(PROMPT) :]].sum()
    return total


@pytest.mark.parametrize("last_layer_only", [False, True])
@pytest.mark.parametrize(("up", "down"), [(1.0, 1.0), (1.0 / 3, 1.0 / 4), (1.5, 1.0)])
def test_predicted_changes_are_those_of_a_real_step(model: Any, last_layer_only: bool, up: float, down: float) -> None:
    parameters = [model.get_output_embeddings().weight] if last_layer_only else list(model.parameters())
    for chosen, rejected in PAIRS:
        before = logprob(model, chosen), logprob(model, rejected)
        predicted = Entanglement.of([products(*before, parameters)]).changes(up, down, STEP)
        loss = -(up * before[0] - down * before[1])
        steps = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, steps, strict=True):
                parameter -= STEP * gradient
            after = logprob(model, chosen), logprob(model, rejected)
            for parameter, gradient in zip(parameters, steps, strict=True):
                parameter += STEP * gradient
        for change, new, old in zip(predicted, after, before, strict=True):
            assert change[0] == pytest.approx((new - old).item(), rel=0.02, abs=1e-7)


def test_answers_that_share_nearly_everything_move_together(model: Any) -> None:
    """The likelier the two are the same, the more entangled: four equal tokens against three of them."""
    parameters = list(model.parameters())
    found = Entanglement.of([products(logprob(model, one), logprob(model, two), parameters) for one, two in PAIRS])
    ratio, cosine = found.ratio(), found.cosine()
    assert ratio[2] > max(ratio[0], ratio[1])
    assert ((cosine >= -1) & (cosine <= 1)).all()
    assert cosine[2] > 0.9


def test_both_move_right_exactly_where_the_ratio_is_at_most_one() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 200, 3))
    b = 0.8 * a + b
    found = Entanglement.of(np.stack([(a * a).sum(1), (b * b).sum(1), (a * b).sum(1)], axis=1))
    rises, falls = found.moves_right()
    assert 0 < (rises & falls).sum() < 200
    np.testing.assert_array_equal(rises & falls, found.ratio() <= 1.0)


def test_what_a_likelihood_term_mends() -> None:
    """|G_w|^2 = 1, |G_l|^2 = 9, inner product 2: the chosen falls with the rejected unless it gets more weight."""
    pair = Entanglement(chosen=np.array([1.0]), rejected=np.array([9.0]), inner=np.array([2.0]))
    assert [move[0] for move in pair.moves_right()] == [False, True]
    assert [move[0] for move in pair.moves_right(weight_chosen=2.0)] == [True, True]
    assert pair.ratio()[0] == 2.0


def test_the_last_layer_needs_no_gradients() -> None:
    """The closed form against autograd on a head with given hidden states."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    answers, values = [], []
    for length in (3, 4):
        hidden = torch.randn(length, 5, generator=generator, dtype=torch.float64)
        targets = torch.randint(11, (length,), generator=generator)
        answers.append((hidden, hidden @ head.T, targets))
        values.append((hidden @ head.T).log_softmax(-1).gather(-1, targets[:, None]).sum())
    found = last_layer_products(answers[0], answers[1])
    np.testing.assert_allclose(found.detach().numpy(), products(values[0], values[1], [head]), rtol=1e-10)
