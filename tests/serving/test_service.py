"""The whole service as a person starts it: Ray Serve, vLLM and a tiny policy, through OpenAI's own client.

One service for all of these tests, in processes of its own; they run in order, and each leaves it answering.
"""

import asyncio
import math
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import http
from serving.environment import free_ports
from tests.serving.running import (
    KEY,
    LINE,
    RUNNING,
    SECONDS,
    TEXT,
    Running,
    body,
    engines,
    ingresses,
    is_policy,
    load,
    memory,
    titles,
)
from tests.serving.runs import checkpoint, make_run
from tests.tiny import make_model, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONG = [{"role": "user", "content": "x" * 400}]
PROMPT_TOKENS = 240
SELECTION = {"method": "rps", "k": 3, "return_candidates": True}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    link = folder / "policy"
    link.symlink_to(make_model(folder / "first", seed=0))
    (folder / "keys").write_text(LINE + "\n")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "serving", "--policy", str(link), "--follow", "--port", str(port)]
    command += ["--keys", str(folder / "keys"), "--judge", "tests.serving.scorers:longer"]
    command += ["--scorer", "warmth=tests.serving.scorers:warmth", "--scorer", "verbosity=tests.serving.scorers:length"]
    for setting in ("dtype=float32", "context=256", "kv_cache_gib=0.1", "cpus=0.5"):
        command += ["--set", f"engine.{setting}"]
    command += ["--set", f"limits.running={RUNNING}", "--set", f"limits.prompt_tokens={PROMPT_TOKENS}"]
    command += ["--set", "limits.deadline=240"]
    # More than any test but the last keeps going for so long.
    for setting in ("max=2", f"ongoing={RUNNING / 2}", "upscale_delay=10", "downscale_delay=5"):
        command += ["--set", f"policy_replicas.{setting}", "--set", f"ingress_replicas.{setting}"]
    command += ["--address", "local"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    running = Running(url=f"http://127.0.0.1:{port}", link=link, log=folder / "log", process=process.pid)
    try:
        running.wait(lambda found: found["ready"] or process.poll() is not None, 280)
        assert process.poll() is None, (folder / "log").read_text()
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def test_openais_client_works_unchanged(service: Running) -> None:
    client = service.client()
    assert [model.id for model in client.models.list()] == ["policy"]
    chat = client.chat.completions.create(model="policy", messages=TEXT, max_tokens=12, seed=3)
    assert chat.usage is not None
    assert chat.usage.completion_tokens <= 12
    assert chat.system_fingerprint == "policy-0"
    assert not hasattr(chat, "nashloop")
    text = client.completions.create(model="policy", prompt=["one", "two"], max_tokens=4)
    assert [choice.index for choice in text.choices] == [0, 1]


def test_every_example_of_the_documents_runs(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASHLOOP_KEY", KEY)
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(examples) >= 3
    shared: dict[str, Any] = {}
    for example in examples:
        exec(example.replace("http://127.0.0.1:8000", service.url), shared)


def test_a_stream_says_the_same_and_names_its_version(service: Running) -> None:
    client = service.client()
    given: dict[str, Any] = {"model": "policy", "messages": TEXT, "max_tokens": 20, "seed": 5}
    whole = client.chat.completions.create(**given)
    raw = client.chat.completions.with_raw_response.create(**given, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in raw.parse()]
    assert len(pieces) > 2
    assert "".join(pieces) == whole.choices[0].message.content
    assert raw.headers["x-nashloop-version"] == "0"


def test_selection_returns_the_best_candidate(service: Running) -> None:
    given: dict[str, Any] = {"model": "policy", "messages": TEXT, "max_tokens": 12, "n": 2}
    extra = {"selection": SELECTION, "preference": {"warmth": 1, "verbosity": 0.5}}
    first, again = (service.client().chat.completions.create(**given, extra_body=extra) for _ in range(2))
    report: dict[str, Any] = first.model_extra["nashloop"] if first.model_extra else {}
    scored = sorted((c for c in report["candidates"] if "score" in c), key=lambda c: -c["score"])
    assert [choice.message.content for choice in first.choices] == [c["text"] for c in scored[:2]]
    assert report["version"] == 0
    assert len({candidate["text"] for candidate in report["candidates"]}) > 1
    assert [choice.message.content for choice in again.choices] == [c.message.content for c in first.choices]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "policy", "messages": LONG}, 400),
        ({"model": "other", "messages": TEXT}, 404),
        ({"model": "policy", "messages": TEXT, "temperature": -1}, 400),
        ({"model": "policy", "messages": TEXT, "logprobs": True, "top_logprobs": 100}, 400),
        ({"model": "policy", "messages": LONG, "preference": 10, "selection": SELECTION}, 400),
    ],
)
def test_what_vllm_refuses_is_refused_in_openais_shape(service: Running, body: dict[str, Any], status: int) -> None:
    answer = httpx.post(
        f"{service.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=30
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("spare", [0, -1])
def test_a_prompt_may_have_so_many_tokens_and_no_more(service: Running, spare: int) -> None:
    """The tokenizer's tokens are bytes."""
    client = service.client()
    text, listed, plain = "a" * (PROMPT_TOKENS - spare), [97] * (PROMPT_TOKENS - spare), {"add_special_tokens": False}
    rendered = client.chat.completions.create(model="policy", messages=TEXT, max_tokens=1).usage
    assert rendered is not None
    around = rendered.prompt_tokens - len(TEXT[0]["content"])
    asked: list[Callable[[], Any]] = [
        lambda: client.completions.create(model="policy", prompt=text, max_tokens=1, extra_body=plain),
        lambda: client.completions.create(model="policy", prompt=["b", text], max_tokens=1, extra_body=plain),
        lambda: client.completions.create(model="policy", prompt=listed, max_tokens=1),
        lambda: client.chat.completions.create(
            model="policy", messages=[{"role": "user", "content": text[around:]}], max_tokens=1
        ),
    ]
    for ask_for in asked:
        if spare < 0:
            with pytest.raises(
                openai.BadRequestError, match=f"{PROMPT_TOKENS + 1} tokens .* {PROMPT_TOKENS} are allowed"
            ):
                ask_for()
        else:
            assert ask_for().choices


def test_a_wrong_key_is_an_authentication_error(service: Running) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_generation_ends_when_the_client_leaves(service: Running) -> None:
    """The same long request, read to its end and left after its first piece."""
    given: dict[str, Any] = {"model": "policy", "messages": TEXT, "max_tokens": 200, "n": 16}

    def seconds(leave: bool) -> float:
        stream = service.client().chat.completions.create(**given, extra_body={"ignore_eos": True}, stream=True)
        pieces = iter(stream)
        next(pieces)
        began = time.monotonic()
        if leave:
            stream.close()
        else:
            assert len(list(pieces)) > 200
        service.wait(lambda found: found["running"] == 0, SECONDS)
        return time.monotonic() - began

    assert seconds(leave=True) < seconds(leave=False) / 2


def test_many_clients_lose_nothing_and_too_many_are_shed(service: Running) -> None:
    async def ask(asking: httpx.AsyncClient, number: int) -> tuple[int, int, Any]:
        answer = await asking.post("/v1/chat/completions", json=body(number % 10))
        found = answer.json()
        return (
            number % 10,
            answer.status_code,
            found["choices"][0]["message"]["content"] if answer.is_success else answer,
        )

    alone = {number: text for number, _, text in asyncio.run(load(service, 10, ask))}
    found = asyncio.run(load(service, 200, ask))
    assert {status for _, status, _ in found} <= {200, 503}
    assert all(text == alone[number] for number, status, text in found if status == 200)
    shed = [answer for _, status, answer in found if status == 503]
    assert shed, f"200 requests at once are more than the {RUNNING} that may run"
    assert all("retry-after" in answer.headers for answer in shed)
    assert asyncio.run(load(service, 10, ask)) == [(number, 200, text) for number, text in alone.items()]


def test_the_version_changes_under_load_without_a_failed_or_mixed_answer(service: Running) -> None:
    second = make_model(service.link.parent / "second", seed=1)
    seen: list[tuple[int, str, str, str]] = []
    until = [time.monotonic() + 120.0]

    async def ask(asking: httpx.AsyncClient, number: int) -> None:
        while time.monotonic() < until[0]:
            answer = await asking.post("/v1/chat/completions", json=body(number))
            assert answer.status_code == 200, answer.text
            version, found = answer.headers["x-nashloop-version"], answer.json()
            seen.append((number, version, found["system_fingerprint"], found["choices"][0]["message"]["content"]))
            if version == "1" and until[0] > time.monotonic() + 2.0:
                until[0] = time.monotonic() + 1.0

    service.point_to(second)
    asyncio.run(load(service, 6, ask))
    assert {version for _, version, _, _ in seen} == {"0", "1"}
    assert all(fingerprint == f"policy-{version}" for _, version, fingerprint, _ in seen)
    answers = {(number, version): text for number, version, _, text in seen}
    assert all(text == answers[number, version] for number, version, _, text in seen), "an answer mixes versions"
    assert any(answers[number, "0"] != answers[number, "1"] for number in range(6))


def ask(service: Running, asked: dict[str, Any]) -> httpx.Response:
    """What a chat request is answered, without an error."""
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{service.url}/v1/chat/completions", json=asked, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def ask_once(service: Running) -> tuple[str, list[float]]:
    """Version of one answer, and the log-probabilities of its tokens: what the weights say, even if it is no text."""
    answer = ask(service, body(0, logprobs=True))
    tokens = answer.json()["choices"][0]["logprobs"]["content"]
    return answer.headers["x-nashloop-version"], [token["logprob"] for token in tokens]


def test_a_running_job_is_followed_and_what_fails_its_proof_is_rolled_back(service: Running) -> None:
    """Weights that are no numbers arrive bit for bit, but their canaries agree with nothing."""
    _, before = ask_once(service)
    run = make_run(service.link.parent / "run", service.link.parent / "second")
    checkpoint(run, 20)
    service.point_to(run)
    service.wait(lambda found: found["version"] == 20, SECONDS)
    version, followed = ask_once(service)
    assert version == "20"
    assert followed != pytest.approx(before, abs=1e-3)
    checkpoint(run, 30, scale=math.nan)
    found = service.wait(lambda found: bool(found["ready"] and found["refused"]), SECONDS)
    assert "canary log-probabilities differ" in found["refused"]
    assert found["version"] == 20
    version, again = ask_once(service)
    assert version == "20"
    assert again == pytest.approx(followed, abs=1e-4)


def test_an_incomplete_policy_is_refused(service: Running) -> None:
    folder = service.link.parent / "incomplete"
    shutil.copytree(service.link.parent / "second", folder)
    (folder / "model.safetensors").unlink()
    service.point_to(folder)
    found = service.wait(lambda found: bool(found["ready"] and "lacks weights" in (found["refused"] or "")), SECONDS)
    assert found["version"] == 20
    service.point_to(service.link.parent / "second")
    service.wait(lambda found: bool(found["ready"] and found["refused"] is None), SECONDS)


VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "policy", "messages": TEXT, "max_tokens": 4},
    "/v1/completions": {"model": "policy", "prompt": "one", "max_tokens": 4},
    "/v1/scores": {"prompt": "one", "messages": None},
    "/v1/preferences": {"prompt": "one", "messages": None},
}
"""What lets a request that is otherwise made up come as far as the engine."""


@pytest.mark.parametrize("path", VALID)
def test_nothing_that_the_document_allows_is_a_fault_or_hangs(service: Running, path: str) -> None:
    """Made up from the OpenAPI document; half of the requests name the model and something to answer."""
    operation = schemathesis.openapi.from_url(f"{service.url}/openapi.json")[path]["POST"]
    seen: Counter[int] = Counter()

    @given(case=operation.as_strategy(), sound=st.booleans())
    @settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case[Any], sound: bool) -> None:
        if sound and isinstance(case.body, dict):
            case.body |= VALID[path]
        answer = case.call(headers={"authorization": f"Bearer {KEY}"}, timeout=120)
        assert answer.status_code < 500, (case.body, answer.text)
        seen[answer.status_code] += 1

    before = memory(service)
    ask()
    assert seen[200] > 0
    assert seen[400] > 0
    assert memory(service) < before + 64 * 2**20, "the engine keeps what it was asked"
    ask_once(service)


def test_on_a_cpu_the_engine_has_no_worker_process_that_it_would_wait_for_by_spinning(service: Running) -> None:
    assert engines(service) == 1
    assert not [title for title in titles(service) if "VLLM::Worker" in title]


def test_prometheus_gets_every_metric_that_the_dashboard_asks_for(service: Running) -> None:
    extra = {"selection": {"method": "best_of_n", "k": 8}, "preference": {"warmth": 1, "verbosity": 0.5}}
    # One character, of which the scorer can't read the second: some candidates of this request are left out.
    tokens = make_tokenizer()(["a", "%"])["input_ids"]
    asked = body(0, max_tokens=1, temperature=1, allowed_token_ids=[ids[0] for ids in tokens], **extra)
    ask(service, asked)
    found = re.search(r"metrics at (http://\S+)", service.log.read_text())
    assert found, service.log.read_text()
    dashboard = (Path(http.__file__).parent / "grafana.json").read_text("utf-8")
    wanted = set(re.findall(r"\bray_\w+", dashboard))
    assert len(wanted) > 10
    deadline = time.monotonic() + SECONDS
    while missing := wanted - set(re.findall(r"^ray_\w+", httpx.get(found[1], timeout=30).text, re.M)):
        assert time.monotonic() < deadline, f"the dashboard asks for {sorted(missing)}, which nothing exports"
        time.sleep(1.0)


def test_a_killed_replica_comes_back_and_no_request_hangs(service: Running) -> None:
    async def ask(asking: httpx.AsyncClient, number: int) -> int:
        answer = await asking.post("/v1/chat/completions", json=body(number, max_tokens=200, ignore_eos=True))
        if not answer.is_success:
            assert answer.json()["error"]["message"], "a failure is an error, not a broken connection"
        return answer.status_code

    async def kill_while_asking() -> list[int]:
        asking = asyncio.create_task(load(service, 8, ask))
        await asyncio.to_thread(service.wait, lambda found: bool(found["running"]), SECONDS)
        replicas = [child for child in psutil.Process(service.process).children(recursive=True) if is_policy(child)]
        assert replicas, "no replica of the policy was found"
        for replica in replicas:
            replica.kill()
        return await asking

    begun_with = service.status()["version"]
    service.point_to(make_model(service.link.parent / "third", seed=2))
    service.wait(lambda found: bool(found["ready"] and found["version"] > begun_with), SECONDS)
    version, before = ask_once(service)
    # The new replica is asked for a release that it can't serve, and has none of its own.
    broken = service.link.parent / "broken"
    shutil.copytree(service.link.resolve(), broken)
    (broken / "model.safetensors").unlink()
    service.point_to(broken)
    service.wait(lambda found: bool(found["ready"] and found["refused"]), SECONDS)
    assert set(asyncio.run(kill_while_asking())) <= {200, 503}
    service.wait(lambda found: bool(found["ready"]), 2 * SECONDS)
    again, after = ask_once(service)
    assert again == version, "the release that was served before comes back"
    assert after == pytest.approx(before, abs=1e-4)


def test_replicas_are_added_under_load_and_removed_after_it(service: Running) -> None:
    """Of the policy, and of the ingress in front of it; meanwhile every request is answered, by the same weights."""
    seen: set[tuple[int, str]] = set()
    deadline, watched = time.monotonic() + 2 * SECONDS, threading.Event()

    def added() -> bool:
        """Beside the clients, and not often: they would be little load if they had to wait for it."""
        try:
            while not (found := min(engines(service), ingresses(service)) > 1) and time.monotonic() < deadline:
                time.sleep(1.0)
            return found
        finally:
            watched.set()

    async def ask(asking: httpx.AsyncClient, number: int) -> None:
        while not watched.is_set():
            answer = await asking.post("/v1/chat/completions", json=body(number, max_tokens=100, ignore_eos=True))
            assert answer.status_code == 200, answer.text
            seen.add((number, answer.json()["choices"][0]["message"]["content"]))

    with ThreadPoolExecutor() as beside:
        watching = beside.submit(added)
        asyncio.run(load(service, RUNNING - 2, ask))
    assert watching.result(), "no replica was added"
    assert len(seen) == RUNNING - 2
    deadline = time.monotonic() + 2 * SECONDS
    while max(engines(service), ingresses(service)) > 1:
        assert time.monotonic() < deadline, "no replica was removed"
        assert ask_once(service)
        time.sleep(1.0)
