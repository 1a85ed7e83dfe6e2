"""Promises that one asynchronous run (eta 4, two engines, two scorers) shows all at once."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from actors.records import Candidate, Group
from tests.loop.support import Outcome, load_weights, same_weights
from tests.tiny import make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def logprobs(model: torch.nn.Module, group: Group, candidate: Candidate) -> torch.Tensor:
    """What `model` gives to each token of a completion, in nats."""
    tokens = torch.tensor([*group.prompt_ids.tolist(), *candidate.token_ids.tolist()])
    with torch.no_grad():
        scores = model(tokens[None]).logits[0, len(group.prompt_ids) - 1 : -1].log_softmax(-1)
    chosen: torch.Tensor = scores.gather(1, tokens[len(group.prompt_ids) :, None])[:, 0]
    return chosen


def test_it_ends_as_asked(asynchronous: Outcome) -> None:
    loop, summary = asynchronous.succeeded().config.loop, asynchronous.summary
    assert summary["status"] == "finished"
    assert summary["version"] == loop.steps
    assert summary["ledger"] == {
        "admitted": loop.steps * loop.batch,
        "trained": loop.steps * loop.batch,
        "rejected": 0,
        "in_flight": 0,
    }


def test_every_group_lives_once(asynchronous: Outcome) -> None:
    life: dict[str, list[str]] = {}
    for event in asynchronous.succeeded().events("admitted", "scored", "trained", "rejected"):
        life.setdefault(event["group"], []).append(event["event"])
    assert len(life) == asynchronous.summary["ledger"]["admitted"]
    assert set(map(tuple, life.values())) == {("admitted", "scored", "trained")}


def test_no_more_in_flight_than_the_capacity_formula_allows(asynchronous: Outcome) -> None:
    loop, flying, most = asynchronous.succeeded().config.loop, 0, 0
    for event in asynchronous.events("admitted", "trained", "rejected"):
        flying += 1 if event["event"] == "admitted" else -1
        most = max(most, flying)
    assert flying == 0
    assert loop.batch < most <= (loop.eta + 1) * loop.batch


def test_experience_is_what_was_trained(asynchronous: Outcome) -> None:
    config, tokenizer = asynchronous.succeeded().config, make_tokenizer()
    trained = asynchronous.trained()
    batches = Counter(version for version, _ in trained)
    assert batches == dict.fromkeys(range(config.loop.steps), config.loop.batch)
    told = {event["group"]: event["version"] for event in asynchronous.events("trained")}
    assert {group.id: version for version, group in trained} == told
    for _, group in trained:
        assert group.preference is not None
        assert (group.preference + group.preference.T == 1).all()
        assert len({candidate.seed for candidate in group.candidates}) == len(group.candidates)
        for candidate in group.candidates:
            assert 0 < len(candidate.token_ids) <= config.rollout.max_new_tokens
            assert len(candidate.logprobs) == len(candidate.token_ids)
            assert (candidate.logprobs <= 0).all()
            assert candidate.text == tokenizer.decode(candidate.token_ids, skip_special_tokens=True)
            ends = [0, *(span.end for span in candidate.versions)]
            assert [span.start for span in candidate.versions] == ends[:-1]
            assert ends[-1] == len(candidate.token_ids)


def test_staleness_is_used_and_bounded(asynchronous: Outcome) -> None:
    staleness = asynchronous.succeeded().summary["staleness"]
    measured = Counter(version - group.oldest_version for version, group in asynchronous.trained())
    assert {int(value): count for value, count in staleness["histogram"].items()} == measured
    assert staleness["bound"] == asynchronous.config.loop.eta == 4
    assert 0 < max(measured) == staleness["max"] <= 4
    assert staleness["mean"] == pytest.approx(sum(v * n for v, n in measured.items()) / measured.total())


def test_version_spans_name_the_weights_that_sampled(asynchronous: Outcome, tiny_model: Path) -> None:
    """A span of version v holds log-probabilities of the checkpoint of v, and not those of the start."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    start = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    by_version: dict[int, tuple[Group, Candidate]] = {}
    for _, group in asynchronous.succeeded().trained():
        for candidate in group.candidates:
            if len(candidate.versions) == 1:
                by_version[candidate.oldest_version] = group, candidate
    assert len(by_version) >= 3
    for version, (group, candidate) in by_version.items():
        recorded = torch.from_numpy(candidate.logprobs.copy())
        if version:
            model.load_state_dict(asynchronous.checkpoint(version), strict=False)
            assert (logprobs(start, group, candidate) - recorded).abs().max() > 1e-3
            model.tie_weights()
        torch.testing.assert_close(logprobs(model, group, candidate), recorded, atol=1e-4, rtol=0)


def test_every_publication_is_proved(asynchronous: Outcome) -> None:
    summary = asynchronous.succeeded().summary
    published = [event["version"] for event in asynchronous.events("published")]
    assert published == sorted(set(published))
    assert published[0] == 0
    assert published[-1] == asynchronous.config.loop.steps
    assert summary["publication"]["count"] == len(published)
    assert summary["publication"]["seconds_median"] > 0
    assert summary["publication"]["exposed_seconds_median"] > 0
    largest = [line["mismatch_max_abs_logprob"] for line in asynchronous.metrics("step")]
    assert 0 < max(largest) <= summary["mismatch"]["max_abs_logprob"] < 1e-3
    assert summary["mismatch"]["kl"] < 1e-6


def test_metrics_are_complete(asynchronous: Outcome) -> None:
    loop = asynchronous.succeeded().config.loop
    steps = asynchronous.metrics("step")
    assert [line["version"] for line in steps] == list(range(1, loop.steps + 1))
    assert [line["groups"] for line in steps] == [loop.batch * (i + 1) for i in range(loop.steps)]
    names = {
        "seconds", "loss", "margin", "accuracy", "chosen_logprob", "rejected_logprob", "kl", "kl_k3", "entropy",
        "length_mean", "truncated_share", "pairs", "dropped_pairs", "gradient_norm", "clipped", "learning_rate",
        "staleness_mean", "staleness_max", "learner_tokens_per_second", "completions_per_second",
        "generated_tokens_per_second", "idle_rollout", "idle_scoring", "idle_learner", "overlap_efficiency",
        "publication_seconds", "exposed_publication_seconds", "mismatch_kl", "mismatch_max_abs_logprob",
    }  # fmt: skip
    for line in steps:
        assert names <= line.keys()
        assert all(math.isfinite(line[name]) for name in names)
        assert all(0 <= line[f"idle_{plane}"] <= 1 for plane in ("rollout", "scoring", "learner"))
        assert 0 <= line["overlap_efficiency"] <= 1 + 1e-6
    assert any(line["gradient_norm"] > 0 for line in steps)
    evaluations = asynchronous.metrics("evaluation")
    assert [line["version"] for line in evaluations] == [5, 10, 15, 20]


def test_summary_holds_the_figures_of_the_promises(asynchronous: Outcome) -> None:
    summary = asynchronous.succeeded().summary
    wanted = {
        "win_rate": {"mean", "low", "high", "n"},
        "ledger": {"admitted", "trained", "rejected", "in_flight"},
        "staleness": {"bound", "max", "mean", "histogram"},
        "idle": {"rollout", "scoring", "learner"},
        "publication": {"count", "seconds_median", "exposed_seconds_median"},
        "mismatch": {"kl", "max_abs_logprob"},
        "throughput": {"completions_per_second", "generated_tokens_per_second", "learner_tokens_per_second"},
    }
    for name, keys in wanted.items():
        assert keys <= summary[name].keys(), name
    assert 0 < summary["overlap_efficiency"] <= 1
    assert summary["wall_seconds"] > 0
    assert summary["seed"] == 0
    assert {"python", "torch", "ray"} <= summary["versions"].keys()
    assert summary["win_rate"]["n"] == 12
    assert all(rate > 0 for rate in summary["throughput"].values())


def test_the_policy_loads_generates_and_is_the_last_version(asynchronous: Outcome, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = asynchronous.succeeded().path / "policy"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt["input_ids"].shape[1]
    final = asynchronous.weights()
    assert same_weights(final, asynchronous.checkpoint(asynchronous.config.loop.steps))
    assert not same_weights(final, load_weights(tiny_model))


def test_the_run_directory_is_whole(asynchronous: Outcome) -> None:
    path = asynchronous.succeeded().path
    for name in ("config.yaml", "environment.json", "samples.jsonl", "report.html"):
        assert (path / name).stat().st_size > 0, name
    assert list((path / "tensorboard").iterdir())
    assert not list(path.rglob("*.part"))
