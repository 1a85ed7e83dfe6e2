"""A running service as its tests see it: through HTTP, its policy's link, its log and its processes."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from serving.keys import make_key

KEY, LINE = make_key("tests")
RUNNING = 24
SECONDS = 180.0
"""For what takes some seconds on a machine that does nothing else."""
TEXT: Any = [{"role": "user", "content": "Say something."}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A running service: its address, the link that names its policy, what it says, and its first process."""

    url: str
    link: Path
    log: Path
    process: int

    def get(self, path: str) -> httpx.Response:
        """A request with the key."""
        return httpx.get(self.url + path, headers={"authorization": f"Bearer {KEY}"}, timeout=30)

    def status(self) -> dict[str, Any]:
        """What `/ready` says; until the application is there, Serve itself answers, and not in JSON."""
        try:
            found: dict[str, Any] = self.get("/ready").json()
        except (httpx.HTTPError, ValueError):
            return {"ready": False, "version": None, "refused": None, "running": None}
        return found

    def wait(self, until: Callable[[dict[str, Any]], bool], seconds: float) -> dict[str, Any]:
        """The status once it is so."""
        deadline = time.monotonic() + seconds
        while not until(found := self.status()):
            assert time.monotonic() < deadline, f"after {seconds} s the service says {found}"
            time.sleep(0.2)
        return found

    def point_to(self, folder: Path) -> None:
        """Let the policy's name stand for another folder, at once."""
        new = self.link.with_name("next")
        new.symlink_to(folder)
        new.rename(self.link)

    def client(self) -> openai.OpenAI:
        """OpenAI's client, which tries nothing again, so that every failure shows."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=60)


async def load(service: Running, clients: int, work: Callable[[httpx.AsyncClient, int], Any]) -> list[Any]:
    """What `work` returns for each of so many clients at once."""
    headers = {"authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=300, limits=limits) as asking:
        return list(await asyncio.gather(*(work(asking, i) for i in range(clients))))


def body(number: int, **more: Any) -> dict[str, Any]:
    """A greedy request whose answer follows from the number and the weights."""
    message = {"role": "user", "content": f"Number {number}."}
    return {"model": "policy", "messages": [message], "max_tokens": 16, "temperature": 0} | more


def memory(service: Running) -> int:
    """Bytes that the replica of the policy and its engine hold."""
    replicas = [child for child in psutil.Process(service.process).children(recursive=True) if is_policy(child)]
    return sum(p.memory_info().rss for replica in replicas for p in (replica, *replica.children(recursive=True)))


def engines(service: Running) -> int:
    """How many engines of the policy run."""
    return sum("VLLM::EngineCore" in title for title in titles(service))


def ingresses(service: Running) -> int:
    """How many replicas of the ingress run."""
    return sum("ServeReplica:nashloop:Ingress" in title for title in titles(service))


def titles(service: Running) -> list[str]:
    """What the processes of the service call themselves; those that end meanwhile are gone."""
    found = []
    for process in psutil.Process(service.process).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found


def is_policy(process: psutil.Process) -> bool:
    """Whether a process is a replica of the policy."""
    try:
        return json.dumps(process.cmdline()).count("ServeReplica:nashloop:Policy") > 0
    except psutil.Error:
        return False
