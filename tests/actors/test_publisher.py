"""Which weights an engine is asked to load, and when: on engines that only remember what they were sent."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ray.exceptions import ObjectLostError

from actors.pool import Member
from actors.publication import LoadReport, Publication
from actors.publisher import Publisher
from tests.examples import config


def weights(policy: str, version: int, payload: str = "first") -> Publication:
    return Publication(
        policy=policy,
        version=version,
        payload=payload,
        checksums={},
        adapter_config=None,
        canaries=(),
        canary_logprobs=(),
    )


class Engine:
    """Stands in for an engine's actor; a payload in `lost` can no longer be fetched."""

    def __init__(self, name: str = "engine") -> None:
        self.name = name
        self.loaded: list[dict[str, int]] = []
        self.lost: set[str] = set()
        self.load: Engine | Slow = self

    async def remote(self, *publications: Publication) -> LoadReport:
        if any(p.payload in self.lost for p in publications):
            raise ObjectLostError("0" * 56, None, "")
        self.loaded.append({p.policy: p.version for p in publications})
        newest = max(p.version for p in publications)
        return LoadReport(
            version=newest, engine=self.name, seconds=0, paused_seconds=0, mismatch_kl=0, mismatch_max_abs=0
        )


class Slow:
    """Loads as an engine does, once it may."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.go_on = asyncio.Event()

    async def remote(self, *publications: Publication) -> LoadReport:
        await self.go_on.wait()
        return await self._engine.remote(*publications)


async def settled() -> None:
    """Until everybody has done what can be done now, however busy the machine is."""
    for _ in range(100):
        await asyncio.sleep(0)


class Scene:
    """A publisher with members that serve given policies, all ready and followed."""

    def __init__(self, *served: tuple[str, ...], evaluated: str = "current") -> None:
        self.engines = [Engine(f"engine-{i}") for i in range(len(served))]
        self.members = [Member(f"engine-{i}") for i in range(len(served))]
        self.published: list[int] = []
        self.reached: list[list[int]] = []
        """Versions of all members whenever one of them told that it has moved on."""
        for member, engine in zip(self.members, self.engines, strict=True):
            member.handle, member.ready = engine, True
        by_name = {member.name: policies for member, policies in zip(self.members, served, strict=True)}
        self.publisher = Publisher(
            config(),
            lambda m: by_name[m.name],
            evaluated,
            lambda reports, *_: self.published.append(reports[0].version),
            lambda: self.reached.append([member.version for member in self.members]),
        )
        self.publisher.watch(self.members)

    async def publish(self, *publications: Publication) -> None:
        await self.publisher.publish(publications, 0.0)
        await settled()


def play(scene: Scene, story: Callable[[Scene], Awaitable[Any]]) -> None:
    async def run() -> None:
        tasks = [asyncio.create_task(scene.publisher.follow(member)) for member in scene.members]
        await story(scene)
        for task in tasks:
            task.cancel()

    asyncio.run(run())


def test_an_engine_keeps_every_policy_at_its_newest_weights() -> None:
    async def story(scene: Scene) -> None:
        await scene.publish(weights("current", 0), weights("half", 0))
        await scene.publish(weights("half", 1))
        await scene.publish(weights("current", 2))

    scene = Scene(("current", "half"))
    play(scene, story)
    assert scene.engines[0].loaded == [{"current": 0, "half": 0}, {"half": 1}, {"current": 2}]
    assert scene.members[0].loaded == {"current": 2, "half": 1}
    assert scene.published == [0, 1, 2]


def test_an_engine_reaches_a_version_that_has_nothing_for_it() -> None:
    """With full weights each policy has its own engine; the other's turn is no reason to wait."""

    async def story(scene: Scene) -> None:
        await scene.publish(weights("current", 0), weights("half", 0))
        await scene.publish(weights("half", 1))

    scene = Scene(("current",), ("half",))
    play(scene, story)
    assert [engine.loaded for engine in scene.engines] == [[{"current": 0}], [{"half": 0}, {"half": 1}]]
    assert [member.version for member in scene.members] == [1, 1]
    assert scene.published == [0, 1], "a version is published once those have it that want it"
    assert scene.reached[-1] == [1, 1], "whoever waits for the slower one is told"


def test_an_engine_that_still_starts_is_not_waited_for() -> None:
    """A run begins with its first engine, and so do the figures of its publications."""

    async def story(scene: Scene) -> None:
        scene.members[1].ready = False
        await scene.publish(weights("current", 0))
        assert scene.published == [0]
        await scene.publisher.prepare(scene.members[1])
        scene.members[1].ready = True
        assert scene.published == [0], "counted once"
        slow = scene.engines[1].load = Slow(scene.engines[1])
        await scene.publish(weights("current", 1))
        assert scene.published == [0], "from then on it is waited for"
        slow.go_on.set()
        await asyncio.wait_for(scene.publisher.reached(scene.members[1], 1), 60)

    scene = Scene(("current",), ("current",))
    play(scene, story)
    assert [engine.loaded for engine in scene.engines] == [[{"current": 0}, {"current": 1}]] * 2
    assert scene.published == [0, 1]


def test_previous_is_so_many_publications_back() -> None:
    async def story(scene: Scene) -> None:
        for version in range(5):
            await scene.publish(weights("current", version))

    scene = Scene(("current", "previous(2)"))
    play(scene, story)
    seen = [loaded.get("previous(2)") for loaded in scene.engines[0].loaded]
    assert seen == [0, None, None, 1, 2], "the start stands in while there is nothing older"


def test_a_fresh_engine_gets_all_that_it_serves_at_once() -> None:
    async def story(scene: Scene) -> None:
        await scene.publish(weights("current", 0), weights("half", 0))
        await scene.publish(weights("half", 1))
        fresh = Member("engine-0")
        fresh.handle = Engine()
        await scene.publisher.prepare(fresh)
        assert fresh.handle.loaded == [{"current": 0, "half": 1}]
        assert fresh.version == 1

    scene = Scene(("current", "half"))
    play(scene, story)
    assert scene.published == [0, 1], "a replaced engine publishes nothing anew"


def test_nothing_goes_beyond_a_version_that_is_held() -> None:
    async def story(scene: Scene) -> None:
        await scene.publisher.hold(0)
        await scene.publish(weights("current", 0))
        await scene.publish(weights("current", 1))
        assert scene.members[0].version == 0
        await scene.publisher.hold(None)
        await settled()
        assert scene.members[0].version == 1
        await scene.publish(weights("current", 2))
        assert [member.version for member in scene.members] == [2, 2]

    scene = Scene(("current",), ("current",))
    play(scene, story)
    assert scene.published == [0, 1, 2], "what was held back is loaded and counted once it may be"


def test_weights_that_died_with_their_learner_are_taken_from_the_next_one() -> None:
    """The successor starts from an older checkpoint: what it publishes again replaces the lost, and nothing newer."""

    async def story(scene: Scene) -> None:
        await scene.publish(weights("current", 0), weights("half", 0))
        await scene.publish(weights("half", 1))
        fresh = Member("engine-0")
        fresh.handle = Engine()
        fresh.handle.lost = {"first"}
        preparing = asyncio.create_task(scene.publisher.prepare(fresh))
        await scene.publish(weights("current", 0, "again"), weights("half", 0, "again"))
        assert not preparing.done(), "half of version 0 is older than what engines serve"
        await scene.publish(weights("half", 1, "again"))
        await asyncio.wait_for(preparing, 60)
        assert fresh.handle.loaded == [{"current": 0, "half": 1}]

    play(Scene(("current", "half")), story)


def test_policies_that_are_never_published_are_not_waited_for() -> None:
    async def story(scene: Scene) -> None:
        await asyncio.wait_for(scene.publisher.prepare(scene.members[0]), 60)
        await asyncio.wait_for(scene.publisher.reached(scene.members[0], 9), 60)

    play(Scene(()), story)
