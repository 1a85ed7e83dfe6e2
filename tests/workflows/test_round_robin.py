"""A round robin on answers made by hand: who may take part, what is judged against what, and what is written."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from actors.config import AlignConfig
from actors.records import SCHEMA, Group, from_arrow, to_arrow
from actors.scorer import Scorer
from algorithms.tournament import standings
from tests.examples import candidate, group, tree
from workflows.answers import Contestant, answers_of, cache_path, mean_length, merged, outcomes, requests
from workflows.round_robin import RoundRobinError, described, load_contestants
from workflows.round_robin_report import write_results

QUESTIONS = (({"role": "user", "content": "first?"},), ({"role": "user", "content": "second?"},))
WORDS = {"start": "rock", "one": "paper", "two": "scissors"}
JUDGE = "tests.scripted_judges:rock_paper_scissors"


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., Path]:
    """Makes the directory of a finished run."""

    def make(name: str, status: str = "finished", **changes: Any) -> Path:
        folder = tmp_path / name
        (folder / "policy").mkdir(parents=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(tree(name=name, scoring__panel=[JUDGE], **changes)))
        summary = {"status": status, "ledger": {"trained": 8}, "wall_seconds": 61.5}
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return make


def written(texts: Sequence[Sequence[str]]) -> list[Group]:
    """Answers to the questions, before they are judged."""
    return [
        replace(
            group(i, [1], []),
            messages=question,
            candidates=tuple(candidate([1] * len(text), text=text) for text in answers),
            preference=None,
            scorer=None,
        )
        for i, (question, answers) in enumerate(zip(QUESTIONS, texts, strict=True))
    ]


def scored(groups: Sequence[Group], config: AlignConfig) -> list[Group]:
    # Ray's decorator types the method as a remote one; on the object itself it is an ordinary call.
    scorer = cast(Any, Scorer("scorer", config.scoring))
    return [from_arrow(scorer.score(to_arrow([group]))[1])[0] for group in groups]


def keep(contestant: Contestant, groups: Sequence[Group], samples: int = 2) -> Path:
    path = cache_path(contestant, requests(contestant.config, QUESTIONS, samples, seed=0))
    pq.write_table(pa.Table.from_batches([to_arrow([group]) for group in groups], SCHEMA), path)
    return path


def test_the_start_takes_part_with_its_own_model(finished: Any) -> None:
    start, one, two = load_contestants([finished("one"), finished("two")])
    assert [start.name, one.name, two.name] == ["start", "one", "two"]
    assert start.model == "model"
    assert Path(one.model) == one.directory / "policy"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"rollout__temperature": 0.5}, r"rollout\.temperature: 1\.0 and 0\.5"),
        ({"rollout__max_new_tokens": 8}, r"rollout\.max_new_tokens: 16 and 8"),
        ({"model__name": "other"}, r"model\.name: 'model' and 'other'"),
        ({"data__system": "Be brief."}, r"data\.system: None and 'Be brief\.'"),
        ({"scoring__truncation_penalty": 0.0}, r"scoring\.truncation_penalty: 1\.0 and 0\.0"),
    ],
)
def test_runs_have_to_agree(finished: Any, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(RoundRobinError, match=rf"one and two can't be compared(?s:.*){key}"):
        load_contestants([finished("one"), finished("two", **changes)])


def test_objectives_and_learners_may_differ(finished: Any) -> None:
    load_contestants([finished("one"), finished("two", seed=4, learner__learning_rate=1e-3, loop__eta=0)])


def test_a_run_that_is_not_finished_is_refused(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(RoundRobinError, match="is failed; the command that started it resumes it"):
        load_contestants([finished("one", status="failed")])
    (tmp_path / "one" / "summary.json").unlink()
    with pytest.raises(RoundRobinError, match=r"no finished run: it lacks summary\.json"):
        load_contestants([tmp_path / "one"])


def test_names_have_to_be_different(finished: Any) -> None:
    one = finished("one")
    with pytest.raises(RoundRobinError, match="are taken: one"):
        load_contestants([one, one])
    with pytest.raises(RoundRobinError, match="are taken: start"):
        load_contestants([finished("start")])


def test_answers_are_kept_for_exactly_what_was_asked(finished: Any) -> None:
    start, one = load_contestants([finished("one")])
    asked = requests(one.config, QUESTIONS, 2, seed=0)
    assert cache_path(one, asked) != cache_path(start, asked)
    for other in (requests(one.config, QUESTIONS, 3, 0), requests(one.config, QUESTIONS, 2, 1), asked[:1]):
        assert cache_path(one, other) != cache_path(one, asked)
    kept = written([["paper", "rock"], ["scissors", "paper"]])
    keep(one, kept)
    found = answers_of(one, QUESTIONS, 2, 0, Console(quiet=True))
    assert [c.text for answers in found for c in answers.candidates] == ["paper", "rock", "scissors", "paper"]


def test_every_answer_meets_every_answer_to_the_same_prompt(finished: Any) -> None:
    contestants = load_contestants([finished("one")])
    answers = [written([["rock", "rock"], ["rock", "rock"]]), written([["paper", "rock"], ["scissors", "scissors"]])]
    groups = merged(contestants, answers)
    assert [c.policy for c in groups[0].candidates] == ["start", "start", "one", "one"]
    found = outcomes(scored(groups, contestants[0].config), ["start", "one"])
    np.testing.assert_allclose(found[0], [[0.5, 0.25], [0.75, 0.5]])
    np.testing.assert_allclose(found[1], [[0.5, 1.0], [0.0, 0.5]])


def test_three_policies_in_a_circle(finished: Any, tmp_path: Path) -> None:
    contestants = load_contestants([finished("one"), finished("two")])
    for contestant in contestants:
        word = WORDS[contestant.name]
        keep(contestant, written([[word, word], [word, word]]))
    names = [contestant.name for contestant in contestants]
    answers = [answers_of(contestant, QUESTIONS, 2, 0, Console(quiet=True)) for contestant in contestants]
    found = standings(outcomes(scored(merged(contestants, answers), contestants[0].config), names))
    np.testing.assert_allclose(found.equilibrium, 1 / 3, atol=1e-6)
    np.testing.assert_allclose(found.exploitability, 0.5)
    about = {
        "samples": 2,
        "tokens": dict(zip(names, map(mean_length, answers), strict=True)),
        "runs": {contestant.name: described(contestant) for contestant in contestants[1:]},
    }
    markdown, figures, image = write_results(tmp_path / "docs" / "round", names, found, about)
    written_figures = json.loads(figures.read_text())
    assert written_figures["win_rates"]["one"]["start"]["mean"] == 1.0
    assert written_figures["tokens"] == {"start": 4.0, "one": 5.0, "two": 8.0}
    row = next(line for line in markdown.read_text().splitlines() if line.startswith("| two |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Two prompts say little: the interval is that of a policy which never lost so far.
    assert cells[1:] == ["0.000 (0.000 to 0.776)", "1.000 (0.224 to 1.000)", "", "0.33", "0.500", "8.0"]
    assert written_figures["runs"]["two"]["completions"] == 8 * 3
    assert '| two | online_dpo | `{"candidates": 3, "pair_choice": "all"}` | 4 | 24 | 62 |' in markdown.read_text()
    assert image.read_bytes().startswith(b"\x89PNG")
    assert f"]({image.name})" in markdown.read_text()
