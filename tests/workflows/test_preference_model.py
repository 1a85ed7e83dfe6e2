"""The preference-model workflow but for its training: data checks, figures by hand, the card, labelling, bad input."""

import io
import json
import math
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from ray.train.torch import TorchTrainer
from rich.console import Console

from actors.preference_config import PreferenceModelConfig
from actors.preference_data import Comparison, PreferenceDataError, Rating
from actors.records import SCHEMA, to_arrow
from algorithms.calibration import calibration
from tests.examples import candidate, group
from workflows.config import parse_tree, read_tree
from workflows.preference_model import labelling
from workflows.preference_model.__main__ import main
from workflows.preference_model.card import card, reliability, write_card
from workflows.preference_model.evaluation import comparison_figures, rating_figures
from workflows.preference_model.inputs import check_inputs
from workflows.training import RunFailed, Training

ASKED = ({"role": "user", "content": "Why?"},)
ABOUT = {"commit": "abc", "command": "python -m workflows.preference_model"}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def configured(tiny_model: Path, train: str, **tree: Any) -> PreferenceModelConfig:
    base: dict[str, Any] = {"name": "test", "model": {"name": str(tiny_model)}, "data": {"train": train}}
    for key, value in tree.items():
        base[key] = base.get(key, {}) | value
    return PreferenceModelConfig.model_validate(base)


def compared(first: str, second: str, target: float) -> Comparison:
    return Comparison(messages=ASKED, first=first, second=second, target=target)


TRAIN = [
    compared("long one", "no", 0.0),
    compared("x", "longer", 0.0),
    compared("a", "b", 0.0),
    compared("aa", "b", 1.0),
]
HELDOUT = [
    compared("long", "no", 1.0),
    compared("no", "long", 0.0),
    compared("no", "long", 1.0),
    compared("a", "bb", 0.5),
]


def test_figures_of_comparisons_by_hand() -> None:
    found = comparison_figures(np.array([[0.8], [0.4], [0.3], [0.6]]), HELDOUT, TRAIN)
    assert (found["n"], found["ties"]) == (4, 1)
    assert found["accuracy"]["share"] == pytest.approx(2 / 3)
    # In the training data the second place wins most often, and the longer response twice in three.
    assert {name: share["share"] for name, share in found["baselines"].items()} == {
        "always the second": pytest.approx(1 / 3),
        "the longer": pytest.approx(2 / 3),
    }
    expected = -(math.log(0.8) + math.log(0.6) + math.log(0.3) + 0.5 * math.log(0.6) + 0.5 * math.log(0.4)) / 4
    assert found["cross_entropy"] == pytest.approx(expected)
    assert found["length_bias"]["model"]["share"] == 1.0
    assert found["length_bias"]["labels"]["share"] == pytest.approx(2 / 3)
    assert found["position_bias"] is None


def test_both_orders_are_averaged_and_show_position_bias() -> None:
    one = comparison_figures(np.array([[0.9, 0.6], [0.9, 0.2], [0.1, 0.1], [0.5, 0.5]]), HELDOUT, TRAIN)
    averaged = comparison_figures(np.array([[0.65], [0.85], [0.5], [0.5]]), HELDOUT, TRAIN)
    assert one["accuracy"] == averaged["accuracy"]
    assert one["position_bias"]["lean"] == pytest.approx((0.25 + 0.05 - 0.4 + 0.0) / 4)


def test_figures_of_ratings_by_hand() -> None:
    rated = [
        Rating(messages=ASKED, response="x" * length, scores={"a": a, "b": b})
        for length, a, b in [(1, 1.0, math.nan), (2, 3.0, 0.0), (3, 2.0, math.nan)]
    ]
    found = rating_figures(np.array([[1.0, 5.0], [2.0, 0.0], [3.0, 5.0]]), rated, rated)["attributes"]
    assert found["a"]["error"] == pytest.approx(math.sqrt(2 / 3))
    assert found["a"]["error_of_mean"] == pytest.approx(math.sqrt(2 / 3))
    assert found["a"]["ordered"] == pytest.approx(2 / 3)
    assert found["a"]["longer_is_higher"] == {"model": pytest.approx(1.0), "data": pytest.approx(2 / 3)}
    assert (found["b"]["n"], found["b"]["error"], found["b"]["ordered"]) == (1, 0.0, None)


def test_a_card_states_data_accuracy_calibration_and_biases(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?", "chosen": "so it is", "rejected": "no"} for i in range(20)]
    config = configured(tiny_model, write(tmp_path / "d.jsonl", rows))
    inputs = check_inputs(config)
    heldout = [r for r in inputs.heldout if isinstance(r, Comparison)]
    train = [r for r in inputs.train if isinstance(r, Comparison)]
    figures = comparison_figures(np.array([[r.target * 0.8 + 0.1] for r in heldout]), heldout, train)
    write_card(tmp_path, config, inputs.facts, figures, ABOUT)
    text = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == str(tiny_model)
    for promised in ("20 rows", "18; 2", "1.000 (0.342 to 1.000; n = 2)", "calibration error | 0.100", "length bias",
                     "position bias | none", "![Reliability](reliability.png)"):  # fmt: skip
        assert promised in text, promised
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    orders = comparison_figures(np.array([[0.8, 0.7], [0.4, 0.2]]), heldout, train)
    assert "leaning towards the response shown first | +0.025" in card("m", config, inputs.facts, orders, ABOUT)


def test_labels_that_all_agree_can_be_drawn() -> None:
    """13 of 13: the share is the end of its interval, up to rounding."""
    with warnings.catch_warnings(action="error"):
        for count in (1, 13, 31):
            reliability(asdict(calibration(np.full(count, 0.97), np.ones(count))))


def test_the_card_of_a_regression_has_a_row_for_each_attribute(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?", "response": "x" * (i + 1), "scores": {"a": i, "b": None if i % 2 else -i}} for i in
            range(10)]  # fmt: skip
    path = write(tmp_path / "d.jsonl", rows)
    config = configured(tiny_model, path, data={"heldout": path}, objective={"kind": "regression"})
    inputs = check_inputs(config)
    heldout = [r for r in inputs.heldout if isinstance(r, Rating)]
    figures = rating_figures(np.array([[float(i), -float(i)] for i in range(10)]), heldout, heldout)
    write_card(tmp_path, config, inputs.facts, figures, ABOUT)
    text = (tmp_path / "README.md").read_text()
    assert "| a | 10 | 0.000 | 2.872 | 1.000 | 1.000 | 1.000 |" in text
    assert "| b | 5 | 0.000 | 2.828 | 1.000 | 0.000 | 0.000 |" in text
    assert not (tmp_path / "reliability.png").exists()


def test_the_place_of_a_chosen_response_says_nothing_and_that_of_votes_is_kept(
    tiny_model: Path, tmp_path: Path
) -> None:
    chosen = [{"prompt": f"Why {i}?", "chosen": "so", "rejected": "no"} for i in range(40)]
    votes = [{"prompt": f"Why {i}?", "first": "so", "second": "no", "votes": [v]} for i, v in
             enumerate(["first", "first", "tie"] * 10)]  # fmt: skip
    mixed = check_inputs(configured(tiny_model, write(tmp_path / "c.jsonl", chosen)))
    targets = [r.target for r in [*mixed.train, *mixed.heldout] if isinstance(r, Comparison)]
    assert 10 < sum(targets) < 30
    path = write(tmp_path / "v.jsonl", votes)
    kept = check_inputs(configured(tiny_model, path))
    assert {r.target for r in kept.train if isinstance(r, Comparison)} == {1.0, 0.5}
    dropped = check_inputs(configured(tiny_model, path, data={"ties": "drop"}))
    assert {r.target for r in dropped.train if isinstance(r, Comparison)} == {1.0}
    assert dropped.heldout == kept.heldout


def test_a_file_of_its_own_is_held_out_whole(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?", "chosen": "so", "rejected": "no"} for i in range(10)]
    train, heldout = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", rows[:4])
    inputs = check_inputs(configured(tiny_model, train, data={"heldout": heldout}))
    assert (len(inputs.train), len(inputs.heldout)) == (10, 4)
    assert inputs.facts["prompts"] == {"train": 10, "heldout": 4, "shared": 4}
    half = check_inputs(configured(tiny_model, train, data={"heldout_share": 0.5}))
    assert (len(half.train), len(half.heldout)) == (5, 5)


def test_what_does_not_fit_the_window_is_refused_or_cut_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?", "chosen": "so" * (20 if i else 1), "rejected": "no"} for i in range(4)]
    path = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(PreferenceDataError, match=r"window holds 32; .* \(model.window, model.truncation_side\)"):
        check_inputs(configured(tiny_model, path, model={"window": 32}))
    cut = check_inputs(configured(tiny_model, path, model={"window": 32, "truncation_side": "right"}))
    assert cut.facts["truncated"] == 3
    assert check_inputs(configured(tiny_model, path)).facts["truncated"] == 0


def test_ratings_of_other_attributes_can_not_be_held_out(tiny_model: Path, tmp_path: Path) -> None:
    row = {"prompt": "Why?", "response": "so"}
    train = write(tmp_path / "a.jsonl", [row | {"scores": {"a": 1}}])
    heldout = write(tmp_path / "b.jsonl", [row | {"scores": {"b": 1}}])
    config = configured(tiny_model, train, data={"heldout": heldout}, objective={"kind": "regression"})
    with pytest.raises(PreferenceDataError, match="other attributes than a"):
        check_inputs(config)


def test_judges_label_what_a_run_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "experience").mkdir()
    texts = ["no", "so it is", "no", ""]
    candidates = tuple(candidate([1], text=text) for text in texts)
    groups = [replace(group(index, [1], [[1]] * len(texts)), candidates=candidates) for index in range(3)]
    pq.write_table(pa.Table.from_batches([to_arrow(groups)], SCHEMA), tmp_path / "experience" / "a.parquet")
    output = tmp_path / "pairs.jsonl"
    arguments = [str(tmp_path), "--judges", "tests.scripted_judges:more_letters", "--output", str(output)]
    assert labelling.main(arguments) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert {row["first"], row["second"]} == {"no", "so it is"}
        assert row["votes"] == ["first" if row["first"] == "so it is" else "second"]
    assert "3 comparisons from 3 groups" in " ".join(capsys.readouterr().out.split())
    assert labelling.main([str(tmp_path / "none"), *arguments[1:]]) == 1
    assert "holds no answers" in " ".join(capsys.readouterr().err.split())


def test_a_share_of_the_votes_is_reversed_and_the_same_ones_each_time(tmp_path: Path) -> None:
    candidates = tuple(candidate([1], text="x" * length) for length in range(1, 21))
    groups = [replace(group(index, [1], [[1]] * 20), candidates=candidates) for index in range(10)]
    pq.write_table(pa.Table.from_batches([to_arrow(groups)], SCHEMA), tmp_path / "answers.parquet")

    def labelled(*options: str) -> list[dict[str, Any]]:
        output = tmp_path / "pairs.jsonl"
        command = [str(tmp_path / "answers.parquet"), "--judges", "tests.scripted_judges:longer", "--pairs", "190"]
        assert labelling.main([*command, *options, "--output", str(output)]) == 0
        return [json.loads(line) for line in output.read_text().splitlines()]

    def wrong(rows: list[dict[str, Any]]) -> list[bool]:
        return [(row["votes"] == ["first"]) != (len(row["first"]) > len(row["second"])) for row in rows]

    clean, noisy = labelled(), labelled("--flips", "0.25")
    assert len(clean) == 1900
    assert not any(wrong(clean))
    assert sum(wrong(noisy)) / 1900 == pytest.approx(0.25, abs=0.04)  # four standard errors
    assert noisy == labelled("--flips", "0.25")
    assert wrong(noisy) != wrong(labelled("--flips", "0.25", "--seed", "1"))


class Stuck:
    """Stands for a trainer whose workers never come to an update."""

    def fit(self) -> None:
        time.sleep(5)


def test_a_training_that_stands_still_is_given_up(tmp_path: Path) -> None:
    training, shown = Training(cast(TorchTrainer, Stuck())), io.StringIO()
    (tmp_path / "metrics.jsonl").write_text('{"loss": 0.69, "accuracy": null, "seconds": 2.0}\n')
    with pytest.raises(RunFailed, match=r"waited 0.1 s for the update after number 1 \(training.deadline\)"):
        training.watch(tmp_path / "metrics.jsonl", 10, 0.1, "training.deadline", Console(file=shown, width=99))
    assert shown.getvalue() == "update 1/10 | loss 0.690\n"


def test_the_ready_configuration_is_complete() -> None:
    path = Path(__file__).resolve().parents[2] / "configs" / "preference_model.yaml"
    config = parse_tree(read_tree(path), PreferenceModelConfig)
    assert config.objective.kind == "bradley_terry"
    assert config.folders() == ["model"]
    assert config.model_copy(update={"members": 2}).folders() == ["model-0", "model-1"]
    again = PreferenceModelConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))))
    assert again == config


GOOD = [json.dumps({"prompt": prompt, "chosen": "so", "rejected": "no"}) for prompt in ("Why?", "When?")]
TIE = json.dumps({"prompt": "Why?", "first": "so", "second": "no", "votes": ["tie"]})


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        ([*GOOD, "{"], [], "line 3 of"),
        ([TIE], [], "none prefers a response"),
        (GOOD[:1], [], "give data.heldout"),
        (GOOD, ["training.epoch=2"], "did you mean training.epochs"),
        (GOOD, ["objective.smoothing=0.5"], "less than 0.5"),
        (GOOD, ["model.template='{prompt}'"], "lacks the field"),
        (GOOD, ["model.name=./none"], "does not exist"),
        (GOOD, ["model.window=9999"], "has 512 positions"),
    ],
)
def test_bad_input_is_one_message_before_anything_starts(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lines: list[str],
    settings: list[str],
    message: str,
) -> None:
    (tmp_path / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
    tree = {
        "name": "t",
        "directory": str(tmp_path),
        "model": {"name": str(tiny_model)},
        "data": {"train": str(tmp_path / "d.jsonl")},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    overrides = [part for setting in settings for part in ("--set", f"{setting}")]
    assert main(["--config", str(tmp_path / "c.yaml"), *overrides]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "t").exists()
