"""Likelihoods of two small models, against computing them answer by answer, and what the figures make of them."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.config import AlignConfig
from actors.records import Group
from tests.examples import candidate, config, group
from tests.tiny import make_model
from workflows.evaluate.figures import Judged, summarise
from workflows.evaluate.likelihood import Likelihoods, Measured, measure
from workflows.evaluate.policies import EvaluationError, Named, check_vocabularies

PROMPT = [5, 6, 7, 8]
ANSWERS = {"start": [[10, 11], [12, 13, 14]], "tuned": [[20, 21, 22], [23]]}
TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("likelihood")
    return tuple(str(make_model(root / str(seed), layers=1, seed=seed)) for seed in (1, 2))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def measured(folders: tuple[str, str]) -> Measured:
    return measure(settings(), folders[1], folders[0], groups(), "tuned")


def settings(**changes: Any) -> AlignConfig:
    return config(rollout__temperature=TEMPERATURE, learner__chunk_tokens=4, **changes)


def groups() -> list[Group]:
    """Two prompts; the first answer of each policy beats its second, and the tuned one's beat the start's."""
    candidates = tuple(
        replace(candidate(tokens, text="x" * len(tokens)), policy=name) for name, all_of in ANSWERS.items()
        for tokens in all_of
    )  # fmt: skip
    matrix = np.array([[0.5, 0.9, 0, 0], [0.1, 0.5, 0, 0], [1, 1, 0.5, 1], [1, 1, 0, 0.5]])
    return [replace(group(i, PROMPT, []), candidates=candidates, preference=matrix) for i in (0, 3)]


def distributions(folder: str, tokens: list[int]) -> torch.Tensor:
    """Next-token log-probabilities [T, V] of an answer alone, at the temperature."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT + tokens])).logits[0, len(PROMPT) - 1 : -1]
    result: torch.Tensor = (logits / TEMPERATURE).log_softmax(-1)
    return result


def test_everything_is_what_it_is_for_each_answer_alone(measured: Measured, folders: tuple[str, str]) -> None:
    rows = measured.likelihoods
    assert rows.prompt.tolist() == [0, 0, 0, 0, 3, 3, 3, 3]
    assert rows.own.tolist() == [0, 0, 1, 1] * 2
    for place, tokens in enumerate([*ANSWERS["start"], *ANSWERS["tuned"]]):
        ref, pi = (distributions(folder, tokens) for folder in folders)
        picked = torch.arange(len(tokens)), torch.tensor(tokens)
        log_ratio = (ref - pi)[picked]
        top = pi.topk(10).values
        expected: dict[str, Any] = {
            "tokens": len(tokens),
            "engine": -len(tokens),
            "logprob": pi[picked].sum(),
            "reference": ref[picked].sum(),
            "k1": -log_ratio.sum(),
            "k2": (log_ratio**2 / 2).sum(),
            "k3": (log_ratio.exp() - 1 - log_ratio).sum(),
            "kl": (pi.exp() * (pi - ref)).sum(),
            "entropy": -(pi.exp() * pi).sum(),
            "top_mass": top.exp().sum(),
            "top_entropy": -(top.exp() * top).sum(),
        }
        for name, value in expected.items():
            assert getattr(rows, name)[place] == pytest.approx(float(value), rel=1e-3, abs=1e-4), name
            assert getattr(rows, name)[place + 4] == getattr(rows, name)[place]


def test_a_policy_against_itself_has_moved_nowhere(folders: tuple[str, str]) -> None:
    own = [replace(g, candidates=g.candidates[2:], preference=g.preference[2:, 2:]) for g in groups()]  # type: ignore[index]
    rows = measure(settings(), folders[0], folders[0], own, "tuned").likelihoods
    for name in ("k1", "k2", "k3", "kl"):
        assert not getattr(rows, name).any()


def test_chunks_do_not_matter_and_allowed_tokens_do(measured: Measured, folders: tuple[str, str]) -> None:
    whole = measure(config(rollout__temperature=TEMPERATURE), folders[1], folders[0], groups(), "tuned")
    for field in fields(Likelihoods):
        np.testing.assert_allclose(
            getattr(whole.likelihoods, field.name), getattr(measured.likelihoods, field.name), rtol=1e-5, atol=1e-6
        )
    few = measure(settings(rollout__allowed_tokens=list(range(10, 30))), folders[1], folders[0], groups(), "tuned")
    assert (few.likelihoods.logprob > measured.likelihoods.logprob).all()
    assert (few.likelihoods.entropy <= few.likelihoods.tokens * np.log(20) + 1e-5).all()


def test_the_best_and_the_worst_own_answer_make_a_pair(measured: Measured, folders: tuple[str, str]) -> None:
    """Against autograd on the output head alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folders[1], dtype=torch.float32)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    gradients = []
    for tokens in ANSWERS["tuned"]:
        logits = model(torch.tensor([PROMPT + tokens])).logits[0, len(PROMPT) - 1 : -1] / TEMPERATURE
        value = logits.log_softmax(-1)[torch.arange(len(tokens)), torch.tensor(tokens)].sum()
        gradients.append(torch.autograd.grad(value, model.lm_head.weight)[0].flatten() * TEMPERATURE)
    w, l = gradients  # noqa: E741
    assert measured.products.shape == (2, 3)
    np.testing.assert_allclose(measured.products[0], [float(w @ w), float(l @ l), float(w @ l)], rtol=1e-3)


def test_figures_are_means_over_own_answers_and_prompts(measured: Measured) -> None:
    judged = Judged(names=("start", "tuned"), proxy=groups(), gold=None)
    rows = measured.likelihoods
    found = summarise(judged, {"tuned": measured}, elo=False, seed=0)["policies"]["tuned"]["likelihood"]
    assert found["kl"]["mean"] == pytest.approx(rows.kl[2:4].mean())
    assert found["kl"]["n"] == found["prompts"] == 2
    assert found["entropy"] == pytest.approx(rows.entropy[2:4].sum() / 4)
    assert found["engine_mismatch"] == pytest.approx(np.abs(rows.logprob[2:4] + rows.tokens[2:4]).sum() / 4)
    ranking = found["ranking"]
    assert ranking["pairs"] == 2
    assert ranking["accuracy"] == float(rows.logprob[0] >= rows.logprob[1])
    assert ranking["accuracy_per_token"] == float(rows.logprob[0] / 2 >= rows.logprob[1] / 3)
    assert ranking["reference_accuracy"] == float(rows.reference[0] >= rows.reference[1])
    margin = rows.reference[0] - rows.reference[1]
    for beta, accuracy in ranking["idealised"].items():
        assert accuracy == float(margin + np.log(9) / float(beta) > 0)
    products = measured.products[0]
    assert found["entanglement"]["ratio"] == pytest.approx(products[2] / min(products[:2]))


def test_different_tokenizers_are_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    check_vocabularies([Named(name="a", model=folders[0]), Named(name="b", model=folders[1])])
    other = make_model(tmp_path / "other", layers=1)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["brand-new"])
    tokenizer.save_pretrained(other)
    with pytest.raises(EvaluationError, match=r"b has another tokenizer than a \(261 and 260 tokens\)"):
        check_vocabularies([Named(name="a", model=folders[0]), Named(name="b", model=str(other))])
