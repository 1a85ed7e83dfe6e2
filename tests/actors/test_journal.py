"""What a run writes down is read line by line, also after it was cut in the middle of one."""

import json
from pathlib import Path

import pytest

from actors.journal import Journal


def written(folder: Path, *names: str) -> None:
    journal = Journal(str(folder))
    for name in names:
        journal.event(name, group="g")
    journal.close()


@pytest.mark.parametrize("cut", ["", '{"time": 1.0, "event": "adm'])
def test_a_run_that_goes_on_leaves_whole_lines(tmp_path: Path, cut: str) -> None:
    path = tmp_path / "events.jsonl"
    written(tmp_path, "admitted", "scored")
    with path.open("a", encoding="utf-8") as file:
        file.write(cut)
    written(tmp_path, "trained")
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["admitted", "scored", "trained"]


def test_a_first_line_that_was_cut_is_forgotten_too(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("{", encoding="utf-8")
    written(tmp_path, "admitted")
    assert [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()] == ["admitted"]
