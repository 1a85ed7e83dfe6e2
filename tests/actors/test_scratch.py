"""A scratch folder lives as long as its owner: the next owner clears what a killed one left, and nothing else."""

import signal
import subprocess
import sys
from pathlib import Path

from actors.scratch import make_scratch

OWNER = """
import sys, time
from pathlib import Path
from actors.scratch import make_scratch
print(make_scratch(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


def test_the_folder_of_a_killed_owner_is_cleared_and_that_of_a_living_one_is_kept(tmp_path: Path) -> None:
    other = tmp_path / "nashloop-of-somebody-else"
    other.mkdir()
    owners = [
        subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        folders = [Path(owner.stdout.readline().strip()) for owner in owners if owner.stdout]
        (folders[0] / "model.safetensors").write_bytes(b"weights")
        assert all(folder.is_dir() for folder in (*folders, make_scratch(tmp_path)))
        owners[0].send_signal(signal.SIGKILL)
        owners[0].wait()
        own = make_scratch(tmp_path)
        assert [folder.exists() for folder in (*folders, own, other)] == [False, True, True, True]
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()
