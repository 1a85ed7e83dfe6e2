"""Templates of questions to models: text files with named fields, which are checked before anything is asked."""

from collections.abc import Sequence
from pathlib import Path

from actors.preference_inputs import check_template
from actors.scorers.base import ScorerError


def read_template(path: str, fields: Sequence[str]) -> str:
    """The text of a template that has exactly these fields.

    Raises: `ScorerError` when the file can't be read, `ModelError` when it has other fields.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScorerError(f"template {path!r} can't be read: {error}") from None
    check_template(text, fields)
    return text
