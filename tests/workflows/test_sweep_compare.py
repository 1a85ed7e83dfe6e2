"""Sweeps side by side: what is averaged, what is left out, and what is refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workflows.scaling_law.table import read_tables
from workflows.sweep.compare import curves, listing, main


def trial(eta: int, win_rate: float, name: str = "egpo", status: str = "complete") -> dict[str, Any]:
    return {"objective.name": name, "loop.eta": eta, "win_rate": win_rate, "status": status}


def table(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    stopped = trial(4, 0.1, status="stopped_early")
    first = table(tmp_path / "egpo.parquet", trial(4, 0.6), trial(0, 0.7), trial(0, 0.8), stopped)
    return [first, table(tmp_path / "inpo.parquet", trial(16, 0.5, "inpo"))]


def test_seeds_of_one_setting_meet_in_order_and_censored_trials_are_left_out(tables: list[Path]) -> None:
    found = curves(read_tables(tables), "eta", "win_rate", "objective.name")
    assert found == {"egpo": {0.0: [0.7, 0.8], 4.0: [0.6]}, "inpo": {16.0: [0.5]}}
    assert list(found["egpo"]) == [0.0, 4.0]
    assert curves(read_tables(tables), "eta", "win_rate", None) == {
        "win_rate": {0.0: [0.7, 0.8], 4.0: [0.6], 16.0: [0.5]}
    }


def test_sizes_stand_in_the_order_of_numbers(tmp_path: Path) -> None:
    rows = [trial(0, 0.5) | {"model_parameters": size} for size in (1_071_200, 112_832, 3_377_408)]
    found = curves(read_tables([table(tmp_path / "t.parquet", *rows)]), "eta", "win_rate", "N")
    assert list(found) == ["112832", "1071200", "3377408"]


def test_the_listing_has_means_ranges_and_gaps(tables: list[Path]) -> None:
    found = curves(read_tables(tables), "eta", "win_rate", "objective.name")
    assert listing(found, "eta") == [
        "| eta | egpo | inpo |",
        "| --- | --- | --- |",
        "| 0 | 0.750 (0.700 to 0.800) |  |",
        "| 4 | 0.600 |  |",
        "| 16 |  | 0.500 |",
    ]


def test_the_command_leaves_a_picture(tables: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "staleness.png"
    command = [*map(str, tables), "--setting", "eta", "--by", "objective.name", "--output", str(output)]
    assert main(command) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    assert "| egpo | inpo |" in capsys.readouterr().out


def test_an_unknown_column_is_refused_with_the_nearest(
    tables: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tables[0]), "--setting", "loop.etta", "--output", str(tmp_path / "x.png")]) == 1
    assert "loop.eta" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
