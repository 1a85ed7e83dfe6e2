"""A run directory that is worked in: what ends the work, and what a person is told when a disk is full."""

import errno
import os
from pathlib import Path

import pytest

from tests.examples import config
from workflows.run_directory import in_use
from workflows.training import RunFailed, unfinished

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.jsonl")


@pytest.mark.parametrize("found", [FULL, RunFailed(f"training failed: a worker's trace\n  line 1\n{FULL}")])
def test_a_full_disk_is_said_in_one_line_whoever_found_it(tmp_path: Path, found: Exception) -> None:
    with pytest.raises(RunFailed) as raised, unfinished(config(directory=str(tmp_path))):
        raise found
    message = str(raised.value)
    assert message.startswith("a disk is full (No space left on device): make room where ")
    assert str(tmp_path / "test") in message
    assert "\n" not in message
    assert not in_use(tmp_path / "test"), "the next driver may go on"


@pytest.mark.parametrize("found", [OSError(errno.EIO, "Input/output error"), RunFailed("too many groups rejected")])
def test_what_else_ends_a_run_is_told_as_it_is(tmp_path: Path, found: Exception) -> None:
    with pytest.raises(type(found)) as raised, unfinished(config(directory=str(tmp_path))):
        raise found
    assert raised.value is found
