"""A full disk, whoever finds it: every error that wraps its error on the way to the driver keeps these words."""

import errno
import os

FULL = os.strerror(errno.ENOSPC)


def is_full_disk(error: BaseException) -> bool:
    """Whether an error, or what it wraps, says that a disk is full."""
    return FULL in str(error)
