"""Members of a pool are replaced when they are lost, work goes to the least loaded, and nobody waits for ever."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from actors import pool as pool_module
from actors.deadlines import DeadlineExceeded, within
from actors.pool import Broken, Member, MemberLost, Pool, PoolBroken


class Remote:
    """A method of a stand-in actor, called as Ray's are."""

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        self.remote = call


class Actor:
    """Stands where Ray's actor handle stands: a life that the test can end."""

    def __init__(self, name: str, starts: bool = True) -> None:
        self.name = name
        self.alive = starts
        self.killed = False
        self.hangs = False

    @property
    def start(self) -> Remote:
        return Remote(self._answer)

    async def _answer(self) -> str:
        await asyncio.sleep(60 if self.hangs else 0)
        if not self.alive:
            raise RayActorError(error_msg=f"{self.name} died")
        return self.name


class Factory:
    """Makes stand-ins and remembers them."""

    def __init__(self, starts: bool = True) -> None:
        self.made: list[Actor] = []
        self.events: list[tuple[str, str]] = []
        self._starts = starts

    def create(self, name: str) -> Actor:
        self.made.append(Actor(name, self._starts))
        return self.made[-1]

    def event(self, event: str, member: str, detail: str) -> None:
        self.events.append((event, member))


@pytest.fixture(autouse=True)
def without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killing a stand-in needs no cluster, and a heartbeat no two seconds."""
    monkeypatch.setattr(ray, "kill", lambda actor: setattr(actor, "killed", True))
    monkeypatch.setattr(pool_module, "HEARTBEAT_SECONDS", 0.05)


def build(factory: Factory, members: int = 1, **changes: Any) -> Pool:
    names = [f"engine-{i}" for i in range(members)]
    return Pool(names, factory.create, on_event=factory.event, **{"start_deadline": 60.0, **changes})


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await within(60, wait(), "the test's condition")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 120))


def test_users_that_come_together_are_spread_over_all_members() -> None:
    async def scenario() -> None:
        pool = build(Factory(), members=3)
        pool.start()
        await until(lambda: len(pool.ready()) == 3)
        go_on = asyncio.Event()
        chosen: list[str] = []

        async def user() -> None:
            async with pool.use(60) as member:
                chosen.append(member.name)
                await go_on.wait()

        users = [asyncio.create_task(user()) for _ in range(7)]
        await until(lambda: len(chosen) == 7)
        assert sorted(member.load for member in pool.members) == [2, 2, 3]
        go_on.set()
        await asyncio.gather(*users)
        assert [member.load for member in pool.members] == [0, 0, 0]
        assert pool.busy_seconds() > 0
        pool.kill()

    run(scenario())


def test_users_that_wait_for_the_first_member_are_counted_too() -> None:
    async def scenario() -> None:
        pool = build(Factory(), members=2)
        loads: list[int] = []

        async def user() -> None:
            async with pool.use(60):
                await until(lambda: sum(member.load for member in pool.members) == 4)
                loads.append(sum(member.load for member in pool.members))
                await asyncio.sleep(0.02)

        users = [asyncio.create_task(user()) for _ in range(4)]
        await asyncio.sleep(0.01)
        pool.start()
        await asyncio.gather(*users)
        assert loads == [4, 4, 4, 4]
        pool.kill()

    run(scenario())


@pytest.mark.parametrize("error", [RayActorError(error_msg="gone"), DeadlineExceeded("hung"), Broken("vLLM stopped")])
def test_the_user_of_a_lost_member_gets_its_work_back(error: Exception) -> None:
    async def scenario() -> None:
        factory = Factory()
        pool = build(factory)
        pool.start()
        with pytest.raises(MemberLost, match="engine-0: "):
            async with pool.use(60):
                raise error
        await until(lambda: len(factory.made) == 2 and bool(pool.ready()))
        assert factory.made[0].killed
        assert not factory.made[1].killed
        assert pool.restarts == 1
        async with pool.use(60) as member:
            assert member.handle is factory.made[1]
            assert member.load == 1
        pool.kill()

    run(scenario())


def test_an_error_of_the_work_itself_costs_no_member() -> None:
    async def scenario() -> None:
        factory = Factory()
        pool = build(factory)
        pool.start()
        with pytest.raises(ZeroDivisionError):
            async with pool.use(60):
                raise ZeroDivisionError
        await asyncio.sleep(0.02)
        assert (len(factory.made), pool.restarts, pool.members[0].load) == (1, 0, 0)
        pool.kill()

    run(scenario())


def test_late_news_of_a_death_does_not_cost_the_successor() -> None:
    async def scenario() -> None:
        factory = Factory()
        pool = build(factory)
        pool.start()
        told = asyncio.Event()

        async def late() -> None:
            async with pool.use(60):
                await told.wait()
                raise RayActorError(error_msg="gone")

        task = asyncio.create_task(late())
        await until(lambda: pool.members[0].load == 1)
        with pytest.raises(MemberLost):
            async with pool.use(60):
                raise RayActorError(error_msg="gone")
        await until(lambda: len(factory.made) == 2 and bool(pool.ready()))
        told.set()
        with pytest.raises(MemberLost):
            await task
        await asyncio.sleep(0.1)
        assert len(factory.made) == 2
        assert pool.restarts == 1
        pool.kill()

    run(scenario())


def test_a_member_that_dies_without_work_is_found_by_its_heartbeat() -> None:
    async def scenario() -> None:
        factory = Factory()
        pool = build(factory)
        pool.start()
        await until(lambda: bool(pool.ready()))
        factory.made[0].alive = False
        await until(lambda: len(factory.made) == 2 and bool(pool.ready()))
        assert factory.events == [("ready", "engine-0"), ("restarted", "engine-0"), ("ready", "engine-0")]
        pool.kill()

    run(scenario())


def test_a_member_that_hangs_is_found_by_its_heartbeat() -> None:
    async def scenario() -> None:
        factory = Factory()
        pool = build(factory, start_deadline=0.1)
        pool.start()
        await until(lambda: bool(pool.ready()))
        factory.made[0].hangs = True
        await until(lambda: len(factory.made) == 2 and bool(pool.ready()))
        assert factory.made[0].killed
        pool.kill()

    run(scenario())


def test_nothing_is_handed_out_before_it_is_prepared() -> None:
    async def scenario() -> None:
        factory = Factory()
        weights_there = asyncio.Event()
        prepared: list[Any] = []

        async def prepare(member: Member) -> None:
            await weights_there.wait()
            prepared.append(member.handle)

        pool = build(factory, prepare=prepare)
        pool.start()
        with pytest.raises(DeadlineExceeded, match=r"waited 0.05 s for a ready one of \['engine-0'\]"):
            async with pool.use(0.05):
                raise AssertionError("must not be reached")
        weights_there.set()
        async with pool.use(60) as member:
            assert prepared == [member.handle]
        factory.made[0].alive = False
        await until(lambda: len(prepared) == 2)
        assert prepared[1] is factory.made[1], "a replacement is prepared as well"
        pool.kill()

    run(scenario())


def test_a_preparation_that_proves_something_wrong_ends_the_pool() -> None:
    async def scenario() -> None:
        async def prepare(member: Member) -> None:
            raise ValueError("checksum differs")

        (task,) = build(Factory(), prepare=prepare).start()
        with pytest.raises(ValueError, match="checksum differs"):
            await task

    run(scenario())


@pytest.mark.parametrize("restarts", [0, 2])
def test_restarts_are_bounded(restarts: int) -> None:
    async def scenario() -> None:
        factory = Factory(starts=False)
        pool = build(factory, max_restarts=restarts)
        (task,) = pool.start()
        with pytest.raises(PoolBroken, match=f"engine-0 was lost again after {restarts} restarts: .*engine-0 died"):
            await task
        assert len(factory.made) == restarts + 1
        assert all(actor.killed for actor in factory.made)

    run(scenario())


def test_a_start_that_takes_too_long_is_a_loss_that_says_so() -> None:
    async def scenario() -> None:
        class Slow(Actor):
            def __init__(self, name: str) -> None:
                super().__init__(name)
                self.hangs = True

        pool = Pool(["engine-0"], Slow, start_deadline=0.05, max_restarts=0)
        (task,) = pool.start()
        with pytest.raises(PoolBroken, match=r"waited 0.05 s for engine-0 to start \(deadlines.start\)"):
            await task

    run(scenario())


def test_killing_the_pool_ends_every_member() -> None:
    async def scenario() -> None:
        factory = Factory()
        pool = build(factory, members=2)
        tasks = pool.start()
        await until(lambda: len(pool.ready()) == 2)
        pool.kill()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(actor.killed for actor in factory.made)
        assert pool.ready() == []
        assert len(factory.made) == 2

    run(scenario())
