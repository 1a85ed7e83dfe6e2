"""Experience buffer: scored groups as Arrow record batches, from the scorers to the learner and on to disk.

Which groups form a batch is decided by the conductor. The buffer keeps a group until it was trained, then writes
its batch to `experience/` and forgets it; a learner that goes back to its last checkpoint gets the written batches
again, bit for bit. So memory holds the groups in flight, whatever the length of the run.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.records import SCHEMA, GroupSummary
from algorithms.packing import split_evenly


class RunStopped(RuntimeError):
    """The run was stopped elsewhere; the message says why."""


class ExperienceBuffer:
    """Groups between scoring and training."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._groups: dict[int, tuple[GroupSummary, pa.RecordBatch]] = {}
        self._batches: dict[int, list[int]] = {}
        self._changed = asyncio.Condition()
        self._stopped: str | None = None

    def __repr__(self) -> str:
        return "ExperienceBuffer"

    async def begin(self, version: int) -> None:
        """Start at `version`; what was trained from there on in an earlier life of the run is undone."""
        for path in self._folder.glob("version-*.parquet"):
            if int(path.stem.removeprefix("version-")) >= version:
                path.unlink()

    async def put(self, summary: GroupSummary, batch: pa.RecordBatch) -> None:
        """Keep a scored group."""
        self._groups[summary.index] = (summary, batch)

    async def release(self, version: int, indices: Sequence[int]) -> None:
        """Hand these groups to the learner as the batch that takes `version` to the next one."""
        async with self._changed:
            self._batches[version] = list(indices)
            self._changed.notify_all()

    async def take(self, version: int, rank: int, workers: int) -> pa.Table:
        """This worker's share of the batch of `version`; the whole batch is shared out by tokens.

        Waits until there is one; the deadline is the caller's. Raises: `RunStopped` when the run was stopped.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._available(version))
        if version not in self._batches and not self._path(version).exists():
            raise RunStopped(self._stopped or "the run was stopped")
        table = self._table(version)
        costs = [int(cost) for cost in pc.list_value_length(table["prompt_ids"]).to_pylist()]
        lengths = [sum(len(c["token_ids"]) for c in row) for row in table["candidates"].to_pylist()]
        shares = split_evenly([a + b for a, b in zip(costs, lengths, strict=True)], workers)
        return table.take(pa.array(sorted(shares[rank]), type=pa.int64()))

    async def trained(self, version: int) -> None:
        """Write the batch of `version` to disk and forget it.

        Raises: `OSError` when it can't be written; the batch is then still in memory and no half file is left.
        """
        if version not in self._batches:
            return
        table = self._table(version)
        stamped = table.set_column(
            SCHEMA.get_field_index("trained_version"), "trained_version", pa.array([version] * len(table), pa.int64())
        )
        await asyncio.to_thread(self._write, stamped, self._path(version))
        for index in self._batches.pop(version):
            del self._groups[index]

    async def stop(self, reason: str) -> None:
        """Wake every waiting worker with `RunStopped`."""
        async with self._changed:
            self._stopped = reason
            self._changed.notify_all()

    async def held(self) -> int:
        """Groups in memory."""
        return len(self._groups)

    def _available(self, version: int) -> bool:
        return version in self._batches or self._stopped is not None or self._path(version).exists()

    def _table(self, version: int) -> pa.Table:
        if version in self._batches:
            return pa.Table.from_batches([self._groups[index][1] for index in self._batches[version]], SCHEMA)
        return pq.read_table(self._path(version), schema=SCHEMA)

    def _path(self, version: int) -> Path:
        return self._folder / f"version-{version:08d}.parquet"

    @staticmethod
    def _write(table: pa.Table, path: Path) -> None:
        part = path.with_suffix(".part")
        try:
            pq.write_table(table, part, compression="zstd")
            part.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
