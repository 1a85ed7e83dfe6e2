"""Several runs with gold scorers on one page: points, means over seeds, the table, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from actors.preference_config import PreferenceModelConfig
from actors.scorers.config import ModelScorerConfig
from workflows.config import load_config, parse_tree, read_tree
from workflows.evaluate.over_optimisation import averaged, main, points_of, table


def rate(mean: float, half: float = 0.05) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 64}


def run_with(folder: Path, proxy: list[float], gold: list[float] | None, kl: float = 2.0) -> Path:
    """A run of one evaluation every four versions; its KL at version v is v times `kl`."""
    rows: list[dict[str, Any]] = [
        {"kind": "step", "version": v, "seconds": float(v), "kl": v * kl} for v in range(1, 4 * len(proxy) + 1)
    ]
    for place, mean in enumerate(proxy):
        row: dict[str, Any] = {"kind": "evaluation", "version": 4 * (place + 1), "win_rate": rate(mean)}
        rows.append(row | ({"gold_win_rate": rate(gold[place])} if gold else {}))
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_points_are_evaluations_where_the_kl_has_taken_them(tmp_path: Path) -> None:
    points = points_of(run_with(tmp_path / "run", [0.6, 0.8], [0.58, 0.52]))
    assert [point["version"] for point in points] == [0, 4, 8]
    # Versions 1 to 4, then 5 to 8.
    assert [point["kl"] for point in points] == [0.0, 2.0 * 2.5, 2.0 * 6.5]
    assert [point["gold"]["mean"] for point in points] == [0.5, 0.58, 0.52]
    assert points[2]["proxy"] == pytest.approx({"mean": 0.8, "low": 0.75, "high": 0.85})


def test_seeds_are_averaged_at_versions_that_all_of_them_reached(tmp_path: Path) -> None:
    runs = [
        points_of(run_with(tmp_path / "0", [0.6, 0.8, 0.9], [0.6, 0.5, 0.4])),
        points_of(run_with(tmp_path / "1", [0.7, 0.9], [0.5, 0.4], kl=4.0)),
    ]
    found = averaged(runs)
    assert [point["version"] for point in found] == [0, 4, 8]
    assert found[2]["gold"] == pytest.approx({"mean": 0.45, "low": 0.40, "high": 0.50})
    assert found[2]["kl"] == pytest.approx((13.0 + 26.0) / 2)


def test_the_table_says_where_gold_was_highest_and_where_it_ended(tmp_path: Path) -> None:
    points = points_of(run_with(tmp_path / "run", [0.6, 0.8, 0.9], [0.6, 0.5, 0.4]))
    assert table({"one member": points})[2] == (
        "| one member | 0.600 (0.550 to 0.650), version 4 | 5.0 | 0.400 (0.350 to 0.450), version 12 "
        "| 0.900 (0.850 to 0.950) | 21.0 |"
    )


def test_everything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run_with(tmp_path / name, [0.6, 0.8], [0.6, 0.5]) for name in ("a", "b", "c")]
    named = [f"mean={runs[0]}", f"mean={runs[1]}", str(runs[2])]
    assert main([*named, "--output", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "over_optimisation.json").read_text())
    assert {name: len(seeds) for name, seeds in summary["by_run"].items()} == {"mean": 2, "c": 1}
    assert (tmp_path / "out" / "over_optimisation.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.startswith("| trained on |")


def test_a_run_without_gold_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with(tmp_path / "run", [0.6], None)
    assert main([str(run), "--output", str(tmp_path / "out")]) == 1
    assert "name them in scoring.gold" in " ".join(capsys.readouterr().err.split())
    assert main([str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    assert "not a run directory" in " ".join(capsys.readouterr().err.split())


def test_the_ready_configurations_belong_together() -> None:
    """What is aligned reads the proxies where they are trained, and keeps their teacher out of its own training."""
    folder = Path(__file__).resolve().parents[2] / "configs" / "over_optimisation"
    proxies = parse_tree(read_tree(folder / "proxies.yaml"), PreferenceModelConfig)
    config = load_config(folder / "align.yaml")
    written = [f"{proxies.directory}/{proxies.name}/{name}" for name in proxies.folders()]
    assert [entry.model for entry in config.scoring.panel if isinstance(entry, ModelScorerConfig)] == written
    assert config.scoring.gold
    assert not set(map(str, config.scoring.gold)) & set(map(str, config.scoring.panel))
