"""Folders for weights on their way to an engine, in memory where there is some, which do not outlive their owner.

A killed owner removes nothing, and whoever would do it for the owner may be killed beside it. So each folder is locked
by its owner, which the kernel undoes with the process, and whoever makes the next one clears those that nobody holds.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "nashloop-"
LOCK = "owner"


def scratch_root() -> Path:
    """Shared memory, or the usual place for temporary files."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def make_scratch(root: Path) -> Path:
    """A folder that is this process's until its end; what ended processes left under `root` is removed."""
    for left in root.glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(left, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left.parent, ignore_errors=True)
            finally:
                os.close(descriptor)
    folder = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=root))
    # Never closed: the lock is this process's as long as it lives. Only then may others see the folder.
    fcntl.flock(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
    return folder.rename(root / folder.name.removeprefix("."))
