"""Tables: what a column name means, what never enters a law, and faults that are named by row or column."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.workflows.scaling_law.tables import write
from workflows.scaling_law.groups import levels
from workflows.scaling_law.table import TableError, check_units, read_tables


def test_csv_and_parquet_are_read_together_and_files_tell_rows_apart(tmp_path: Path) -> None:
    write(tmp_path / "one.csv", [{"loss": 3.0}, {"loss": 2.5}])
    pq.write_table(pa.table({"loss": [2.0], "extra": ["x"]}), tmp_path / "two.parquet")
    table = read_tables([tmp_path / "one.csv", tmp_path / "two.parquet"])
    assert table.numbers("loss").tolist() == [3.0, 2.5, 2.0]
    assert table.columns["file"] == ["one", "one", "two"]
    assert table.columns["extra"] == [None, None, "x"]
    assert table.places == ("one.csv, row 1", "one.csv, row 2", "two.parquet, row 1")


def test_names_mean_columns(tmp_path: Path) -> None:
    row = {"model_parameters": 1e6, "D": 2e6, "tokens": 9, "learner.learning_rate": 1e-3, "a.x": 1, "b.x": 2}
    table = read_tables([write(tmp_path / "t.csv", [row])])
    assert table.column("N") == "model_parameters"
    assert table.column("D") == "D"
    assert table.column("learning_rate") == "learner.learning_rate"
    with pytest.raises(TableError, match=r"x could be a\.x or b\.x"):
        table.column("x")
    with pytest.raises(TableError, match=r"no column learningrate; the nearest it has: learner\.learning_rate"):
        table.column("learningrate")
    with pytest.raises(TableError, match="no column C or compute"):
        table.column("C")


@pytest.mark.parametrize(
    ("unfinished", "words"),
    [
        ({"status": "stopped_early"}, "stopped_early"),
        ({"status": "failed"}, "failed"),
        ({"status": "complete", "censored": True}, "changed while they ran"),
    ],
)
def test_only_finished_trials_are_left_and_it_is_said(
    tmp_path: Path, unfinished: dict[str, object], words: str
) -> None:
    finished = {"status": "complete", "censored": False, "loss": 2.0}
    path = write(tmp_path / "t.csv", [finished, {**finished, **unfinished, "loss": 1.0}, finished])
    table = read_tables([path])
    assert table.numbers("loss").tolist() == [2.0, 2.0]
    assert table.places[1] == "t.csv, row 3"
    assert table.notes == (f"1 of 3 trials left out: 1 {words}.",)
    write(path, [{**finished, **unfinished}])
    with pytest.raises(TableError, match="no row is complete: 1"):
        read_tables([path])


@pytest.mark.parametrize("value", ["nan", "inf", "", "fast"])
def test_a_value_that_is_no_number_is_named_by_its_row(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "t.csv", [{"loss": 2.0}, {"loss": 3.0}, {"loss": value}])
    with pytest.raises(TableError, match=r"t\.csv, row (1: loss is '2\.0'|3: loss is)"):
        read_tables([path]).numbers("loss")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", None, "there is no table"),
        ("t.txt", "loss\n1\n", "neither .csv nor .parquet"),
        ("t.parquet", "loss\n1\n", "can't be read as a table"),
        ("t.csv", "", "can't be read as a table"),
        ("t.csv", "loss\n", "the table is empty"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(TableError, match=message):
        read_tables([path])


def test_mixed_up_units_are_refused(tmp_path: Path) -> None:
    table = read_tables([write(tmp_path / "t.csv", [{"N": 7e9, "D": 1e9}, {"N": 7e9, "D": 20.0}])])
    with pytest.raises(TableError, match=r"t\.csv, row 2: 20 tokens for a model of 7e\+09 parameters; are the units"):
        check_units(table, table.numbers("N"), table.numbers("D"))
    with pytest.raises(TableError, match=r"t\.csv, row 1: a model of 7 parameters; is that in millions or billions"):
        check_units(table, table.numbers("N") / 1e9, None)


def test_nearly_equal_values_are_one_level_and_a_continuum_is_none() -> None:
    centres, number = levels(np.array([1e6, 3e7, 1.1e6, 2.9e7, 1e8]), "D")
    assert number.tolist() == [0, 1, 0, 1, 2]
    assert centres == pytest.approx([np.sqrt(1.1) * 1e6, np.sqrt(3 * 2.9) * 1e7, 1e8])
    with pytest.raises(TableError, match="group by something that was set"):
        levels(np.geomspace(1.0, 10.0, 30), "D")
    with pytest.raises(TableError, match="D is 0 in one row"):
        levels(np.array([0.0, 1.0]), "D")
