"""A run directory belongs to one run, one configuration and one driver at a time, and is never damaged."""

import json
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from actors.config import AlignConfig
from tests.examples import config
from workflows.config import parse_config
from workflows.run_directory import RunDirectory, RunDirectoryError, environment


def of(folder: Path, **changes: Any) -> AlignConfig:
    return config(directory=str(folder), **changes)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its bytes and its time of change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def refusal(wanted: AlignConfig) -> str:
    with pytest.raises(RunDirectoryError) as raised:
        RunDirectory(wanted).open()
    return str(raised.value)


def test_a_new_run_keeps_its_resolved_configuration(tmp_path: Path) -> None:
    wanted = of(tmp_path)
    directory = RunDirectory(wanted).open()
    assert directory.path == tmp_path / "test"
    assert not directory.finished
    kept = yaml.safe_load((directory.path / "config.yaml").read_text())
    assert parse_config(kept) == wanted
    assert kept["learner"]["workers"] == 1, "defaults are written down"
    directory.close()


def test_the_same_configuration_resumes(tmp_path: Path) -> None:
    RunDirectory(of(tmp_path)).open().close()
    (tmp_path / "test" / "metrics.jsonl").write_text("{}\n")
    before = contents(tmp_path)
    RunDirectory(of(tmp_path)).open().close()
    assert contents(tmp_path) == before


def test_another_configuration_is_refused_with_the_differing_keys(tmp_path: Path) -> None:
    RunDirectory(of(tmp_path, loop__steps=4)).open().close()
    (tmp_path / "test" / "metrics.jsonl").write_text("{}\n")
    before = contents(tmp_path)
    message = refusal(of(tmp_path, loop__steps=5, learner__lora={"rank": 2}, publication__tolerance=0.5))
    assert "loop.steps: there 4, asked for 5" in message
    assert "learner.lora.rank: there 16, asked for 2" in message
    assert "publication.tolerance: there None, asked for 0.5" in message
    assert message.count("asked for") == 3
    assert "--set name=" in message
    assert contents(tmp_path) == before
    RunDirectory(of(tmp_path, loop__steps=4)).open().close()


def test_a_key_that_only_one_side_has_differs(tmp_path: Path) -> None:
    RunDirectory(of(tmp_path)).open().close()
    path = tmp_path / "test" / "config.yaml"
    path.write_text(path.read_text() + "forgotten: 3\n")
    assert "forgotten: there 3, asked for None" in refusal(of(tmp_path))


def test_two_drivers_are_refused(tmp_path: Path) -> None:
    first = RunDirectory(of(tmp_path)).open()
    before = contents(tmp_path)
    message = refusal(of(tmp_path))
    assert "another driver works in" in message
    assert str(tmp_path / "test") in message
    assert contents(tmp_path) == before
    first.close()
    RunDirectory(of(tmp_path)).open().close()


def test_a_driver_that_died_leaves_no_lock(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        RunDirectory(of(tmp_path)).open()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "test" / "config.yaml").exists()
    RunDirectory(of(tmp_path)).open().close()


def test_runs_of_different_names_do_not_meet(tmp_path: Path) -> None:
    one, other = RunDirectory(of(tmp_path)).open(), RunDirectory(of(tmp_path, name="other", seed=1)).open()
    assert one.path != other.path
    one.close()
    other.close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = refusal(of(tmp_path / "file"))
    assert message == f"the run directory {tmp_path / 'file' / 'test'} can't be written: Not a directory"
    assert refusal(of(Path("/proc"))).startswith("the run directory /proc/test can't be written: ")


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    directory = RunDirectory(of(tmp_path)).open()
    directory.write_json("summary.json", {"status": "failed"})
    with pytest.raises(TypeError):
        directory.write_json("summary.json", {"status": object()})
    assert json.loads((directory.path / "summary.json").read_text()) == {"status": "failed"}
    directory.write_lines("samples.jsonl", [{"a": 1}, {"b": "two\nlines"}])
    assert [json.loads(line) for line in (directory.path / "samples.jsonl").read_text().splitlines()] == [
        {"a": 1},
        {"b": "two\nlines"},
    ]
    directory.close()


@pytest.mark.parametrize(("status", "finished"), [("finished", True), ("failed", False)])
def test_only_a_run_that_reached_its_end_is_finished(tmp_path: Path, status: str, finished: bool) -> None:
    directory = RunDirectory(of(tmp_path)).open()
    directory.write_json("summary.json", {"status": status})
    assert directory.finished is finished
    directory.close()


def test_the_environment_says_what_is_needed_to_run_the_same_again() -> None:
    found = environment()
    assert {"python", "torch", "transformers", "ray"} <= found["versions"].keys()
    assert found["hardware"]["cpus"] == os.cpu_count()
    assert found["hardware"]["memory_gib"] > 0.1
    assert found["commit"] is None or len(found["commit"]) == 40
    json.dumps(found)


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/nashloop", "align", "--set", "scoring.panel=[a, b]"])
    assert environment()["command"] == "nashloop align --set 'scoring.panel=[a, b]'"
    for module in ("workflows.verify.__main__", "workflows.verify"):
        main.__spec__ = ModuleSpec(module, None)
        assert environment()["command"].startswith("python -m workflows.verify align")
