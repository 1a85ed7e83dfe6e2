"""Verdicts on disk by the content of what was asked; several processes may use one file at once."""

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from actors.scorers.base import ScorerError

LOCK_SECONDS = 30.0


class VerdictCache:
    """A SQLite file of probabilities."""

    def __init__(self, path: Path) -> None:
        """Raises: `ScorerError` when the file can't be made or is no cache."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
            self._connection.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, probability REAL)")
        except (OSError, sqlite3.Error) as error:
            raise ScorerError(f"the cache of verdicts {str(path)!r} can't be used: {error}") from error

    def get(self, key: str) -> float | None:
        """The verdict, if there is one."""
        row = self._connection.execute("SELECT probability FROM verdicts WHERE key = ?", (key,)).fetchone()
        return None if row is None else float(row[0])

    def put(self, key: str, probability: float) -> None:
        """Keep a verdict."""
        self._connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, probability))


def content_key(*content: Any) -> str:
    """A name that everything of `content` (JSON) goes into."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
