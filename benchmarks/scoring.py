"""A reward model in the plane scores at least 0.9 of the texts of a bare batched loop; cached verdicts are free.

Ours is a `Scorer` actor, asked group by group through Ray as the conductor asks it: Arrow records in, the preference
matrix and the rewards out. Bare is a loop over the same texts with the same weights, number format and thread:
tokenized, in padded batches of 32, the model's logits. Both are loaded and take turns. The cache of verdicts is that of
a language model judge at an endpoint on this machine, which answers at once: any other endpoint is slower.
"""

import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from actors.models import load_tokenizer, resolve_model
from actors.prompts import load_prompts
from actors.records import Candidate, Group, Message, Sampling, VersionSpan, from_arrow, group_id, to_arrow
from actors.scorer import Panel, create_scorer
from actors.scorers.config import ScoringConfig
from benchmarks.measure import ratios, seconds, take_turns
from benchmarks.models import make_llama
from benchmarks.results import Figure
from benchmarks.runs import PROMPTS
from workflows.align import connect

TARGET = 0.9
CANDIDATES = 8
BARE_BATCH = 32
WORDS = (8, 40)
"""Fewest and most words of a response."""
JUDGED_PAIRS = 28
"""Of 8 responses; each is asked both ways."""


class BareLoop:
    """Transformers' sequence classifier, and nothing else."""

    def __init__(self, folder: str, dtype: str) -> None:
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(1)
        self._tokenizer = load_tokenizer(folder)
        self._model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._model.eval()

    def score(self, texts: Sequence[tuple[Sequence[Message], str]]) -> list[float]:
        """Rewards of prompts with their responses."""
        rewards: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(texts), BARE_BATCH):
                chats = [
                    [*prompt, {"role": "assistant", "content": text}] for prompt, text in texts[start:][:BARE_BATCH]
                ]
                inputs = self._tokenizer.apply_chat_template(chats, padding=True, return_tensors="pt", return_dict=True)
                rewards += self._model(**inputs).logits[:, 0].tolist()
        return rewards


def run(quick: bool) -> list[Figure]:
    """A tiny Llama and SmolLM2, each with one head; then the cache."""
    connect(None)
    with tempfile.TemporaryDirectory(prefix="nashloop-benchmark-") as folder:
        tiny = classifier(str(make_llama(Path(folder) / "llama")), Path(folder) / "tiny", "float32")
        smol = classifier(resolve_model("smollm2-135m-instruct"), Path(folder) / "smol", "bfloat16")
        return [
            *_compare("Llama 4.2M, float32", tiny, "float32", groups=16 if quick else 64, turns=2 if quick else 7),
            *_compare("SmolLM2-135M, bfloat16", smol, "bfloat16", groups=2 if quick else 8, turns=2 if quick else 5),
            *cached_verdicts(Path(folder), turns=2 if quick else 5),
        ]


def classifier(body: str, folder: Path, dtype: str) -> str:
    """Save a model with a random head of one output."""
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(body, num_labels=1, dtype=getattr(torch, dtype))
    tokenizer = load_tokenizer(body)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_groups(count: int, seed: int = 0) -> list[Group]:
    """Groups of prompts with responses of random words from the prompts."""
    generator = np.random.default_rng(seed)
    prompts = [record.messages for record in load_prompts(PROMPTS)]
    words = sorted({word for messages in prompts for word in messages[-1]["content"].split()})
    groups = []
    for index, messages in enumerate(prompts[:count]):
        texts = [" ".join(generator.choice(words, int(generator.integers(*WORDS)))) for _ in range(CANDIDATES)]
        groups.append(
            Group(
                id=group_id(seed, 0, index),
                index=index,
                epoch=0,
                version=0,
                messages=tuple(messages),
                prompt_ids=np.zeros(1, dtype=np.int32),
                candidates=tuple(_candidate(text) for text in texts),
                engine="none",
            )
        )
    return groups


def _candidate(text: str) -> Candidate:
    return Candidate(
        seed=0,
        role="pair",
        policy="current",
        sampling=Sampling(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=1),
        token_ids=np.zeros(1, dtype=np.int32),
        logprobs=np.zeros(1, dtype=np.float32),
        text=text,
        finish_reason="stop",
        versions=(VersionSpan(version=0, start=0, end=1),),
    )


def _compare(name: str, folder: str, dtype: str, groups: int, turns: int) -> list[Figure]:
    sampled = make_groups(groups)
    texts = [(group.messages, candidate.text) for group in sampled for candidate in group.candidates]
    panel = {"panel": [{"model": folder, "dtype": dtype}], "truncation_penalty": 0, "cpus": 0}
    ours = create_scorer("scorer", ScoringConfig.model_validate(panel))
    bare: Any = ray.remote(BareLoop).options(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})
    bare = bare.remote(folder, dtype)
    batches = [ray.put(to_arrow([group])) for group in sampled]

    def in_the_plane() -> list[pa.RecordBatch]:
        scored = [ours.score.remote(batch)[1] for batch in batches]
        return list(ray.get(scored))

    def bare_loop() -> list[float]:
        return list(ray.get(bare.score.remote(texts)))

    try:
        _same(in_the_plane(), bare_loop())
        values = take_turns(
            {
                "ours": lambda _: len(texts) / seconds(in_the_plane),
                "bare": lambda _: len(texts) / seconds(bare_loop),
            },
            turns,
        )
    finally:
        ray.kill(ours)
        ray.kill(bare)
    return [
        Figure(name=f"{name}: in the plane", values=tuple(values["ours"]), unit="responses/s"),
        Figure(name=f"{name}: bare loop", values=tuple(values["bare"]), unit="responses/s"),
        Figure(
            name=f"{name}: in the plane / bare",
            values=tuple(ratios(values["ours"], values["bare"])),
            target=TARGET,
            note=f"{groups} groups of {CANDIDATES} responses",
        ),
    ]


def _same(scored: Sequence[pa.RecordBatch], rewards: Sequence[float]) -> None:
    """Both have to compute the same thing: their rewards may differ by the rounding of other batches alone."""
    ours = np.concatenate([np.asarray(from_arrow(batch)[0].rewards)[:, 0] for batch in scored])
    spread = float(np.std(ours))
    largest = float(np.abs(ours - np.asarray(rewards)).max())
    if largest > 0.2 * spread:
        raise RuntimeError(
            f"plane and bare loop disagree by {largest:.3g}, and rewards have a deviation of {spread:.3g}"
        )


def cached_verdicts(folder: Path, turns: int) -> list[Figure]:
    """What a verdict costs that was asked for, and the same one again; calls are those of the second time."""
    (group,) = make_groups(1)
    with endpoint() as server:
        judge = {
            "llm_judge": "judge",
            "endpoint": f"http://127.0.0.1:{server.server_address[1]}/v1",
            "max_calls": 10**6,
            "cache": str(folder / "verdicts.sqlite"),
        }
        panel = Panel(ScoringConfig.model_validate({"panel": [judge], "truncation_penalty": 0}))
        panel.load()
        asked, cached, calls = [], [], []
        for turn in range(turns):
            # Other texts each turn, which nobody has asked about yet.
            prompt = f"{turn}: {group.messages[-1]['content']}"
            asked.append(seconds(partial(panel.matrix, prompt, group.candidates)))
            before = server.calls
            cached.append(seconds(partial(panel.matrix, prompt, group.candidates)))
            calls.append(float(server.calls - before))
    verdicts = 2 * JUDGED_PAIRS
    return [
        Figure(name="verdict of an endpoint", values=tuple(1e3 * s / verdicts for s in asked), unit="ms"),
        Figure(name="verdict from the cache", values=tuple(1e3 * s / verdicts for s in cached), unit="ms"),
        Figure(
            name="calls to the endpoint for what was asked before",
            values=tuple(calls),
            target=0,
            bound="at most",
            note=f"{JUDGED_PAIRS} pairs, both ways",
        ),
        Figure(name="cached / asked, seconds", values=tuple(ratios(cached, asked)), target=0.1, bound="at most"),
    ]


class Endpoint(ThreadingHTTPServer):
    """Answers every question with the first label, at once, and counts."""

    daemon_threads = True
    calls = 0


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """A local OpenAI-compatible endpoint."""
    choice = {"message": {"role": "assistant", "content": "A"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice]}).encode()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                server.calls += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: it would be on the way."""

    with Endpoint(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
