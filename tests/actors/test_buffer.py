"""Groups wait until they were trained, are shared out without loss, and are on disk exactly as trained."""

import asyncio
import resource
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.buffer import ExperienceBuffer, RunStopped
from actors.records import SCHEMA, Group, from_arrow, summarise, to_arrow
from tests.actors.test_records import assert_same_groups
from tests.examples import random_groups

T = TypeVar("T")


def soon(awaitable: Awaitable[T]) -> "asyncio.Future[T]":
    return asyncio.ensure_future(asyncio.wait_for(awaitable, 60))


async def filled(folder: Path, groups: Sequence[Group]) -> ExperienceBuffer:
    buffer = ExperienceBuffer(str(folder))
    for group in groups:
        await buffer.put(summarise(group), to_arrow([group]))
    return buffer


def in_order(tables: Sequence[pa.Table]) -> list[Group]:
    return sorted((group for table in tables for group in from_arrow(table)), key=lambda group: group.index)


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes; writing more fails in the middle, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_take_waits_for_its_own_version(tmp_path: Path) -> None:
    async def scenario() -> None:
        groups = random_groups(4)
        buffer = await filled(tmp_path, groups)
        first, second = soon(buffer.take(0, 0, 1)), soon(buffer.take(1, 0, 1))
        await asyncio.sleep(0.01)
        assert not first.done()
        await buffer.release(1, [2, 3])
        assert_same_groups(from_arrow(await second), groups[2:])
        assert not first.done()
        await buffer.release(0, [0, 1])
        assert_same_groups(from_arrow(await first), groups[:2])

    asyncio.run(scenario())


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_workers_share_a_batch_without_loss_or_duplication(tmp_path: Path, workers: int) -> None:
    async def scenario() -> None:
        groups = random_groups(4)
        buffer = await filled(tmp_path, groups)
        await buffer.release(0, [0, 1, 2, 3])
        shares = [await buffer.take(0, rank, workers) for rank in range(workers)]
        assert_same_groups(in_order(shares), groups)
        assert sum(len(share) > 0 for share in shares) == min(workers, 4)

    asyncio.run(scenario())


def test_a_batch_is_shared_by_tokens_not_by_groups(tmp_path: Path) -> None:
    async def scenario() -> None:
        long, *short = random_groups(4)
        many = replace(long.candidates[0], token_ids=long.candidates[0].token_ids.repeat(50))
        groups = [replace(long, candidates=(many, *long.candidates[1:])), *short]
        buffer = await filled(tmp_path, groups)
        await buffer.release(0, [0, 1, 2, 3])
        assert sorted([len(await buffer.take(0, rank, 2)) for rank in range(2)]) == [1, 3]

    asyncio.run(scenario())


def test_a_batch_is_on_disk_exactly_as_trained(tmp_path: Path) -> None:
    async def scenario() -> None:
        groups = random_groups(3)
        buffer = await filled(tmp_path, groups)
        await buffer.release(5, [2, 0])
        before = await buffer.take(5, 0, 1)
        await buffer.trained(5)
        table = pq.read_table(tmp_path / "version-00000005.parquet")
        assert (table.schema.names, table.schema.metadata) == (SCHEMA.names, SCHEMA.metadata)
        assert table["trained_version"].to_pylist() == [5, 5]
        assert_same_groups(from_arrow(table), [groups[2], groups[0]])
        after = await buffer.take(5, 0, 1)
        assert_same_groups(from_arrow(after), from_arrow(before))
        assert [path.name for path in tmp_path.iterdir()] == ["version-00000005.parquet"]

    asyncio.run(scenario())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_replay_in_a_new_process_gives_each_worker_the_same_groups(tmp_path: Path, workers: int) -> None:
    async def scenario() -> None:
        buffer = await filled(tmp_path, random_groups(4))
        await buffer.release(0, [3, 1, 0, 2])
        shares = [from_arrow(await buffer.take(0, rank, workers)) for rank in range(workers)]
        await buffer.trained(0)
        reborn = ExperienceBuffer(str(tmp_path))
        await reborn.begin(1)
        for rank, share in enumerate(shares):
            assert_same_groups(from_arrow(await reborn.take(0, rank, workers)), share)

    asyncio.run(scenario())


def test_memory_is_bounded_by_the_groups_in_flight(tmp_path: Path) -> None:
    async def scenario() -> None:
        buffer = ExperienceBuffer(str(tmp_path))
        largest = 0
        for version in range(30):
            for one in random_groups(2, seed=version):
                moved = replace(one, index=2 * version + one.index)
                await buffer.put(summarise(moved), to_arrow([moved]))
            await buffer.release(version, [2 * version, 2 * version + 1])
            largest = max(largest, await buffer.held())
            await buffer.trained(version)
        assert largest == 2
        assert await buffer.held() == 0
        assert len(list(tmp_path.glob("*.parquet"))) == 30

    asyncio.run(scenario())


def test_what_was_trained_twice_is_written_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        buffer = await filled(tmp_path, random_groups(2))
        await buffer.release(0, [0, 1])
        await buffer.trained(0)
        written = (tmp_path / "version-00000000.parquet").read_bytes()
        await buffer.trained(0)
        assert (tmp_path / "version-00000000.parquet").read_bytes() == written

    asyncio.run(scenario())


def test_a_full_disk_keeps_the_groups_and_leaves_no_half_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        groups = random_groups(40)
        buffer = await filled(tmp_path, groups)
        await buffer.release(0, list(range(40)))
        with disk_of(4096), pytest.raises(OSError, match="File too large"):
            await buffer.trained(0)
        assert list(tmp_path.iterdir()) == []
        assert await buffer.held() == 40
        assert_same_groups(from_arrow(await buffer.take(0, 0, 1)), groups)
        await buffer.trained(0)
        assert await buffer.held() == 0
        assert_same_groups(from_arrow(pq.read_table(tmp_path / "version-00000000.parquet")), groups)

    asyncio.run(scenario())


def test_a_folder_that_is_gone_is_an_error_and_keeps_the_groups(tmp_path: Path) -> None:
    async def scenario() -> None:
        folder = tmp_path / "experience"
        buffer = await filled(folder, random_groups(2))
        await buffer.release(0, [0, 1])
        folder.rmdir()
        folder.write_text("a file where the folder was")
        with pytest.raises(OSError, match="version-00000000"):
            await buffer.trained(0)
        assert await buffer.held() == 2

    asyncio.run(scenario())


def test_stop_wakes_everybody_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        buffer = ExperienceBuffer(str(tmp_path))
        waiting = [soon(buffer.take(version, 0, 1)) for version in (0, 1)]
        await asyncio.sleep(0.01)
        await buffer.stop("a judge was wrong")
        for take in (*waiting, soon(buffer.take(2, 0, 1))):
            with pytest.raises(RunStopped, match="a judge was wrong"):
                await take

    asyncio.run(scenario())


def test_a_run_that_stops_still_hands_out_what_it_has(tmp_path: Path) -> None:
    async def scenario() -> None:
        buffer = await filled(tmp_path, random_groups(2))
        await buffer.release(0, [0, 1])
        await buffer.stop("done")
        assert len(await buffer.take(0, 0, 1)) == 2

    asyncio.run(scenario())


def test_a_run_that_goes_back_forgets_what_came_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        buffer = await filled(tmp_path, random_groups(4))
        for version in range(4):
            await buffer.release(version, [version])
            await buffer.trained(version)
        reborn = ExperienceBuffer(str(tmp_path))
        await reborn.begin(2)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "version-00000000.parquet",
            "version-00000001.parquet",
        ]
        undone = soon(reborn.take(2, 0, 1))
        await asyncio.sleep(0.01)
        assert not undone.done(), "version 2 has to be generated again"
        undone.cancel()

    asyncio.run(scenario())


def test_a_batch_that_cannot_take_its_name_leaves_no_half_file(tmp_path: Path) -> None:
    async def scenario() -> None:
        buffer = await filled(tmp_path, random_groups(1))
        await buffer.release(0, [0])
        taken = tmp_path / "version-00000000.parquet"
        taken.mkdir()
        with pytest.raises(OSError, match="directory"):
            await buffer.trained(0)
        assert list(tmp_path.iterdir()) == [taken]
        assert await buffer.held() == 1

    asyncio.run(scenario())
