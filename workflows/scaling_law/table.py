"""Tables of trials, from sweeps or from anywhere: named columns of CSV and Parquet files.

What leaves this module is finite numbers of finished trials in known units; anything else is one message that names the
row or the column.
"""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from algorithms.preference import FloatArray

ALIASES = {
    "N": "model_parameters",
    "D": "tokens",
    "C": "compute",
    "KL": "kl",
    "eta": "loop.eta",
    "engines": "rollout.engines",
}
"""Columns of a sweep's table by the symbols of the laws."""
FILE = "file"
"""The column that names the file of a row."""
COMPLETE = "complete"
SMALLEST_MODEL = 1000.0
ABSURD_RATIO = 1e-6
"""Tokens a parameter below which one of them must be in another unit."""


class TableError(ValueError):
    """A table that no law can be fitted to; names the file, row or column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows by column; `places` says where each row stands, for people; `notes`, what was left out and why."""

    columns: dict[str, list[Any]]
    places: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    def column(self, name: str) -> str:
        """The column that `name` means: itself, a sweep's name for the symbol, or the only one that ends in `.name`.

        Raises: `TableError` with the nearest names.
        """
        wanted = [name, ALIASES[name]] if name in ALIASES else [name]
        for candidate in wanted:
            if candidate in self.columns:
                return candidate
        ending = [column for column in self.columns if column.endswith(f".{name}") and "history." not in column]
        if len(ending) == 1:
            return ending[0]
        if ending:
            raise TableError(f"the column {name} could be {' or '.join(ending)}: give the whole name")
        near = difflib.get_close_matches(name, self.columns, n=3, cutoff=0.4) or list(self.columns)[:8]
        raise TableError(f"the table has no column {' or '.join(wanted)}; the nearest it has: {', '.join(near)}")

    def has(self, name: str) -> bool:
        """Whether `name` means a column."""
        try:
            return bool(self.column(name))
        except TableError:
            return False

    def numbers(self, name: str) -> FloatArray:
        """[rows] of a column that holds numbers.

        Raises: `TableError` with the first row that holds something else, such as NaN.
        """
        column = self.column(name)
        for place, value in zip(self.places, self.columns[column], strict=True):
            if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
                raise TableError(f"{place}: {column} is {value!r} where a finite number is needed")
        return np.array(self.columns[column], dtype=np.float64)

    def labels(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """[rows] values of several columns together."""
        return list(zip(*(self.columns[self.column(name)] for name in names), strict=True))

    def where(self, name: str, value: str) -> "Table":
        """The rows with this value, as text.

        Raises: `TableError` with the values there are.
        """
        texts = [str(entry) for entry in self.columns[self.column(name)]]
        if value not in texts:
            raise TableError(f"no row has {name} = {value}; there are {', '.join(dict.fromkeys(texts))[:200]}")
        return self.take([row for row, text in enumerate(texts) if text == value])

    def take(self, rows: Sequence[int]) -> "Table":
        """These rows."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return Table(columns=columns, places=tuple(self.places[row] for row in rows), notes=self.notes)


def read_tables(paths: Sequence[Path]) -> Table:
    """The finished trials of CSV and Parquet files, one after another; the column `file` is made where there is none.

    Rows with a status other than `complete` are left out, and said so: a trial that was stopped early is censored.
    Raises: `TableError` for a file that can't be read, and where no row is left.
    """
    tables = [_read(path) for path in paths]
    names = list(dict.fromkeys(name for table in tables for name in table.columns))
    table = Table(
        columns={name: [v for t in tables for v in t.columns.get(name, [None] * len(t))] for name in names},
        places=tuple(place for table in tables for place in table.places),
    )
    return _finished(table)


def check_units(table: Table, parameters: FloatArray, tokens: FloatArray | None) -> None:
    """Raises: `TableError` for sizes that are no plain numbers of parameters and tokens."""
    for row, place in enumerate(table.places):
        if parameters[row] < SMALLEST_MODEL:
            raise TableError(
                f"{place}: a model of {parameters[row]:g} parameters; is that in millions or billions? "
                "Give plain numbers, such as 1.35e8"
            )
        if tokens is not None and tokens[row] < ABSURD_RATIO * parameters[row]:
            raise TableError(
                f"{place}: {tokens[row]:g} tokens for a model of {parameters[row]:g} parameters; are the units mixed "
                "up? Give both as plain numbers, such as 2e9"
            )


def _read(path: Path) -> Table:
    try:
        if path.suffix == ".parquet":
            found = pq.read_table(path)
        elif path.suffix == ".csv":
            found = pa.csv.read_csv(path)
        else:
            raise TableError(f"{path} is neither .csv nor .parquet")
    except FileNotFoundError:
        raise TableError(f"there is no table {path}") from None
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path} can't be read as a table: {error}") from None
    columns = {name: found.column(name).to_pylist() for name in found.column_names}
    columns.setdefault(FILE, [path.stem] * found.num_rows)
    return Table(columns=columns, places=tuple(f"{path.name}, row {row + 1}" for row in range(found.num_rows)))


def _finished(table: Table) -> Table:
    statuses = table.columns.get("status", [COMPLETE] * len(table))
    censored = table.columns.get("censored", [False] * len(table))
    rows = [row for row, status in enumerate(statuses) if status == COMPLETE and not censored[row]]
    others = [str(status) for row, status in enumerate(statuses) if row not in set(rows)]
    left_out = Counter("changed while they ran" if status == COMPLETE else status for status in others)
    told = ", ".join(f"{count} {status}" for status, count in left_out.items())
    if not rows:
        raise TableError(f"no row is {COMPLETE}: {told or 'the table is empty'}; only finished trials enter a law")
    note = (f"{sum(left_out.values())} of {len(table)} trials left out: {told}.",) if left_out else ()
    kept = table.take(rows)
    return Table(columns=kept.columns, places=kept.places, notes=note)
