"""Language models as judges in real actors: one in an engine of its own, and one at an endpoint."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.models import render_prompt
from actors.records import from_arrow, to_arrow
from actors.scorer import create_scorer
from actors.scorers.config import ScoringConfig
from tests.endpoint import Reply, completion, serve
from tests.examples import candidate, group

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TEMPLATE = "{prompt}: {first} or {second}?"
TEXTS = ("a walk", "much tea!", "a walk")


@pytest.fixture(scope="module")
def scorer(cluster: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A scorer of one judge, which may only answer with a label."""
    folder = tmp_path_factory.mktemp("judge")
    (folder / "template.txt").write_text(TEMPLATE)
    judge = {
        "llm_judge": str(tiny_model),
        "engine": {"dtype": "float32", "context": 256, "kv_cache_gib": 0.1},
        "max_tokens": 1,
        "template": str(folder / "template.txt"),
        "cache": str(folder / "verdicts.sqlite"),
    }
    actor = create_scorer("judge-0", ScoringConfig.model_validate({"panel": [judge], "cpus": 1}), str(folder))
    ray.get(actor.start.remote(), timeout=400)
    yield actor
    ray.kill(actor)


def score(scorer: Any, *texts: str) -> tuple[Any, Any]:
    found = replace(group(0, [1], [[2]] * len(texts)), candidates=tuple(candidate([1], text=t) for t in texts))
    verdict, scored = scorer.score.remote(to_arrow([replace(found, preference=None, scorer=None)]))
    summary, detail = ray.get(verdict, timeout=120)
    return (summary, from_arrow(ray.get(scored))[0]) if not summary.rejection else (summary, detail)


def shown_first(folder: Path, first: str, second: str) -> float:
    """P(A) + P(C) / 2 among the labels' next-token probabilities, by transformers."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    question = TEMPLATE.format(prompt="question", first=first, second=second)
    ids = render_prompt(tokenizer, [{"role": "user", "content": question}])
    labels = [tokenizer.encode(label, add_special_tokens=False)[0] for label in "ABC"]
    with torch.inference_mode():
        a, _, c = torch.softmax(model(torch.tensor([ids])).logits[0, -1, labels].double(), -1).tolist()
    return float(a + c / 2)


def test_the_matrix_is_that_of_the_models_own_probabilities(scorer: Any, tiny_model: Path) -> None:
    summary, scored = score(scorer, *TEXTS)
    forward, backward = shown_first(tiny_model, *TEXTS[:2]), shown_first(tiny_model, *TEXTS[1::-1])
    assert scored.preference[0, 1] == pytest.approx((forward + 1 - backward) / 2, abs=1e-5)
    assert scored.preference[0, 1] != 0.5
    assert scored.preference[0, 2] == 0.5, "equal texts tie"
    assert (scored.preference + scored.preference.T == 1).all()
    assert (summary.scoring.calls, summary.scoring.cached) == (2, 0), "the same question is asked once"
    again, same = score(scorer, *TEXTS)
    np.testing.assert_array_equal(same.preference, scored.preference)
    assert (again.scoring.calls, again.scoring.cached) == (2, 2)


def test_a_question_that_is_too_long_rejects_the_group_and_no_more(scorer: Any) -> None:
    summary, detail = score(scorer, "a" * 300, "b")
    assert summary.rejection == "judge_failed"
    assert "the judge's engine refuses a question" in detail
    assert score(scorer, "a", "b")[0].rejection is None


def test_a_judge_at_an_endpoint_counts_its_calls_in_the_run_directory(cluster: str, tmp_path: Path) -> None:
    with serve() as server:
        server.script = [Reply(body=completion("C"))]
        judge = {
            "llm_judge": "large",
            "endpoint": server.address,
            "max_calls": 4,
            "cache": str(tmp_path / "verdicts.sqlite"),
        }
        actor = create_scorer("judge-1", ScoringConfig.model_validate({"panel": [judge], "cpus": 0}), str(tmp_path))
        try:
            _, scored = score(actor, "a walk", "much tea!")
            assert scored.preference[0, 1] == 0.5
            assert (tmp_path / "judge_calls").stat().st_size == len(server.requests) == 2
            assert score(actor, "one", "two", "three")[0].rejection == "judge_budget"
        finally:
            ray.kill(actor)
