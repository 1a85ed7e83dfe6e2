"""The application around a policy: what passes unchanged, what is selected, and what is refused and how."""

import asyncio
import json
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as fuzzing

from serving.http import VERSION_HEADER, create_app
from serving.metrics import Metrics
from serving.selecting import Selector
from tests.serving.echo import Echo, chat, client, settings

CHAT = "/v1/chat/completions"


def post(body: Any, path: str = CHAT, **given: Any) -> httpx.Response:
    """One request to an application of its own."""

    async def ask() -> httpx.Response:
        async with client(settings(**given)) as asking:
            if isinstance(body, bytes):
                return await asking.post(path, content=body, headers={"content-type": "application/json"})
            return await asking.post(path, json=body)

    return asyncio.run(ask())


def test_a_plain_request_reaches_the_policy_as_it_came() -> None:
    service = Echo(settings())
    body = chat("hi", temperature=0.3, unknown_to_us={"a": 1}, seed=5)

    async def ask() -> httpx.Response:
        async with client(settings(), service) as asking:
            return await asking.post(CHAT, json=body)

    answer = asyncio.run(ask())
    assert service.asked == [body]
    assert answer.json()["choices"][0]["message"]["content"] == "hi"
    assert "nashloop" not in answer.json()
    assert answer.headers[VERSION_HEADER] == "7"


def test_a_stream_passes_through() -> None:
    answer = post(chat("abc", stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers[VERSION_HEADER] == "7"
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:-1]] == list("abc")
    assert events[-1] == "[DONE]"


def selected(write: Any, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Answer to a request with a selection, and what the policy was asked."""
    of = settings()
    service = Echo(of, write)

    async def ask() -> httpx.Response:
        async with client(of, service) as asking:
            return await asking.post(CHAT, json=chat("say it", **more))

    answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    return answer.json(), service.asked


def test_rps_asks_for_the_neighbourhood_and_scores_by_the_target() -> None:
    """Written for 10 degrees: the published set {10, 5, 15, 0, 20}, told in the paper's words."""
    answer, asked = selected(
        lambda prompt, seed: prompt,
        preference=10,
        selection={"method": "rps", "return_candidates": True},
        temperature=0.7,
    )
    weights = [body["messages"][0]["content"].split("rating = ")[1].split(".")[0] for body in asked]
    assert weights == [
        "warmth*98 + length*17",
        "warmth*100 + length*9",
        "warmth*97 + length*26",
        "warmth*100 + length*0",
        "warmth*94 + length*34",
    ]
    assert [body["seed"] for body in asked] == [0, 1, 2, 3, 4]
    assert {body["temperature"] for body in asked} == {0.7}
    report = answer["nashloop"]
    assert report["direction"] == pytest.approx({"warmth": 0.9848, "length": 0.1736}, abs=1e-4)
    for candidate in report["candidates"]:
        rewards = candidate["rewards"]
        assert candidate["score"] == pytest.approx(0.98481 * rewards["warmth"] + 0.17365 * rewards["length"], abs=1e-4)
    best = max(report["candidates"], key=lambda candidate: candidate["score"])
    assert answer["choices"][0]["message"]["content"] == best["text"]
    assert answer["usage"] == {"prompt_tokens": 10, "completion_tokens": 15, "total_tokens": 25}
    assert (report["version"], report["k"], report["scored"]) == (7, 5, 5)


WORDS = ["bcd", "aei", "aeioubcdfg", "b%", "aei"]


def by_seed(prompt: str, seed: int) -> str:
    """A candidate each for the seeds 0 to 4; the fourth can't be scored."""
    return WORDS[seed % 5]


@pytest.mark.parametrize(
    ("preference", "order"),
    [({"warmth": 1}, ["aei", "aei", "aeioubcdfg", "bcd"]), ({"length": 2}, ["aeioubcdfg", "bcd", "aei", "aei"])],
)
def test_best_of_n_returns_the_best_n_in_order_and_leaves_out_what_failed(
    preference: dict[str, float], order: list[str]
) -> None:
    selection = {"method": "best_of_n", "k": 5, "return_candidates": True}
    answer, _ = selected(by_seed, preference=preference, selection=selection, n=4)
    assert [choice["message"]["content"] for choice in answer["choices"]] == order
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    failed = answer["nashloop"]["candidates"][3]
    assert failed == {"text": "b%", "direction": failed["direction"], "problem": "warmth raised RuntimeError"}
    assert answer["nashloop"]["scored"] == 4


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ({"method": "tournament", "k": 5}, "aeioubcdfg"),
        ({"method": "best_of_majority", "k": 5, "alpha": 0.4}, "aei"),
        ({"method": "best_of_majority", "k": 5, "alpha": 0.0}, "aeioubcdfg"),
        ({"method": "soft_best_of_n", "k": 5, "temperature": 1e-4}, "aeioubcdfg"),
        ({"method": "best_of_n", "n": 2}, "bcd"),
    ],
)
def test_each_method_chooses_by_its_rule(selection: dict[str, Any], chosen: str) -> None:
    answer, _ = selected(by_seed, preference={"length": 1, "warmth": 0}, selection=selection)
    assert answer["choices"][0]["message"]["content"] == chosen
    assert answer["nashloop"]["method"] == selection["method"]


def test_soft_best_of_n_draws_by_its_seed_and_temperature() -> None:
    drawn = [
        selected(
            by_seed,
            preference={"length": 1},
            seed=0,
            selection={"method": "soft_best_of_n", "temperature": 1e5, "seed": seed},
        )[0]["choices"][0]["message"]["content"]
        for seed in range(12)
    ]
    assert len(set(drawn)) > 1


def test_neighbourhoods_differ() -> None:
    def directions(**more: Any) -> list[float]:
        selection = {"method": "rps", "k": 3, "return_candidates": True} | more
        answer, _ = selected(lambda prompt, seed: str(seed), preference=20, selection=selection)
        return [round(candidate["direction"]["length"], 4) for candidate in answer["nashloop"]["candidates"]]

    found = [
        directions(),
        directions(neighborhood="uniform"),
        directions(neighborhood="uniform", seed=1),
        directions(neighborhood="uniform", theta_max=5),
        directions(neighborhood="von_mises"),
        directions(toward=-20),
    ]
    assert len({tuple(each) for each in found}) == len(found)


def test_a_preference_without_a_selection_is_told_to_the_policy() -> None:
    answer, asked = selected(lambda prompt, seed: prompt, preference={"warmth": 3, "length": 4})
    assert "warmth*60 + length*80.\n\nsay it" in asked[0]["messages"][0]["content"]
    assert answer["nashloop"]["method"] == "none"
    assert answer["nashloop"]["direction"] == pytest.approx({"warmth": 0.6, "length": 0.8})
    assert "seed" not in asked[0]


def test_the_default_preference_counts_for_selections_only() -> None:
    of: dict[str, Any] = {"preference": {"length": 1}}
    assert post(chat(selection={"method": "best_of_n"}), **of).json()["nashloop"]["direction"]["length"] == 1
    assert "nashloop" not in post(chat(), **of).json()


GOOD = {"method": "best_of_n", "k": 3}
BAD = {
    "unknown method": (chat(selection={"method": "guess"}), "'none', 'best_of_n'"),
    "unknown objective": (chat(selection=GOOD, preference={"humour": 1}), "this service scores warmth, length"),
    "zero length": (chat(selection=GOOD, preference={"warmth": 0}), "length 0"),
    "no weights": (chat(selection=GOOD, preference={}), "length 0"),
    "no preference": (chat(selection={"method": "rps"}), "needs a preference: weights of warmth, length"),
    "k of 0": (chat(selection={"method": "rps", "k": 0}, preference=10), "greater than or equal to 1"),
    "k of 10000": (chat(selection={"method": "rps", "k": 10000}, preference=10), "less than or equal to 1000"),
    "k above the limit": (chat(selection={"method": "rps", "k": 17}, preference=10), "more than the 16"),
    "angle": (chat(selection=GOOD, preference=181), "less than or equal to 180"),
    "theta_max": (chat(selection={"theta_max": 91}, preference=10), "less than or equal to 90"),
    "too few neighbours": (chat(selection={"k": 9}, preference=44, seed=1), "lower k, or use the neighbourhood"),
    "empty messages": ({"model": "policy", "messages": []}, "one message or more"),
    "no messages": ({"model": "policy"}, "messages: Field required"),
    "no user": (
        {"model": "policy", "messages": [{"role": "system", "content": "x"}], "preference": 1},
        "last user message",
    ),
    "n above k": (chat(selection=GOOD, preference=10, n=4), "can't be chosen from k = 3"),
    "n above the limit": (chat(n=17), "1 to 16 are allowed"),
    "stream": (chat(selection=GOOD, preference=10, stream=True), "chooses among whole answers"),
    "tokens": (chat(max_tokens=65), "more than the 64 that are allowed"),
    "unknown field": (chat(selection={"metod": "rps"}, preference=10), "selection.metod: Extra inputs"),
    "beyond the context": (chat("refuse"), "longer than the context"),
    "vLLM's own checks": (chat(tools=[]), "must not be an empty array"),
    "values of another type": (chat(stream_options=5), "stream_options"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_with_what_is_allowed(name: str) -> None:
    body, message = BAD[name]
    answer = post(body, limits={"output_tokens": 64})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": None}, {"prompt": "a", "stream_options": 5}, []])
def test_a_completion_of_nothing_is_refused(body: Any) -> None:
    answer = post(body, "/v1/completions")
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "not valid UTF-8"),
        (b'{"messages": ', "not valid JSON"),
        (b'{"preference": NaN}', "NaN is no number"),
        (b'{"preference": {"warmth": Infinity}}', "Infinity is no number"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "not valid UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (json.dumps(chat(preference={"warmth": 1}, selection=GOOD)).replace("1}", "1e999}").encode(), "finite"),
        (b"[]", "valid dictionary"),
    ],
)
def test_what_is_no_strict_json_is_refused(body: bytes, message: str) -> None:
    answer = post(body)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


def test_a_service_without_scorers_or_judge_says_so() -> None:
    bare: dict[str, Any] = {"scorers": {}, "judge": None}
    assert "no scorers" in post(chat(selection=GOOD), **bare).text
    assert "no judge" in post(chat(selection={"method": "tournament"}), **bare).text
    assert "scores no objective" in post(chat(preference=3), **bare).text
    assert "no scorers" in post({"prompt": "a", "responses": ["b"]}, "/v1/scores", **bare).text
    assert "no judge" in post({"prompt": "a", "responses": ["b", "c"]}, "/v1/preferences", **bare).text


def test_one_scorer_needs_no_preference() -> None:
    one: dict[str, Any] = {"scorers": {"length": "tests.serving.scorers:length"}}
    answer = post(chat("%abc", selection=GOOD), **one).json()
    assert answer["nashloop"]["scored"] == 3
    assert "direction" not in answer["nashloop"]


def test_without_any_score_the_answer_is_an_error_not_a_guess() -> None:
    answer = post(chat("%", selection=GOOD, preference=10))
    assert answer.status_code == 500
    assert "no candidate could be scored: warmth raised RuntimeError" in answer.json()["error"]["message"]


def test_scores_and_preferences() -> None:
    scored = post({"prompt": "p", "responses": ["aab", "b%"]}, "/v1/scores").json()
    assert scored["rewards"] == [{"warmth": pytest.approx(2 / 3), "length": 0.03}, None]
    assert scored["problems"] == [None, "warmth raised RuntimeError"]
    compared = post({"messages": chat()["messages"], "responses": ["a", "ccc", "bb"]}, "/v1/preferences").json()
    assert compared["matrix"] == [[0.5, 0, 0], [1, 0.5, 1], [1, 0, 0.5]]
    assert compared["win_rates"] == [0, 1, 0.5]
    assert compared["order"] == [1, 2, 0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"responses": ["a", "b"]}, "either a prompt"),
        ({"prompt": "p", "messages": [], "responses": ["a", "b"]}, "either a prompt"),
        ({"prompt": "p", "responses": ["a"]}, "two responses"),
        ({"prompt": "p", "responses": []}, "at least 1"),
        ({"prompt": "p", "responses": ["a"] * 17}, "1 to 16"),
    ],
)
def test_comparisons_of_nothing_are_refused(body: dict[str, Any], message: str) -> None:
    answer = post(body, "/v1/preferences")
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (400, True)


def test_what_is_not_there_is_an_error_in_openais_shape() -> None:
    answer = post({}, "/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_what_a_candidate_is_refused_for_is_the_answer() -> None:
    told = {"method": "best_of_n", "k": 2}
    answer = post(chat("refuse", selection=told), scorers={"length": "tests.serving.scorers:length"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "longer than the context")


def test_a_lost_replica_is_an_error_that_can_be_tried_again() -> None:
    answer = post(chat("lose it"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "replica_lost"


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_ends_the_answer_and_its_generation(stream: bool) -> None:
    of = settings(limits={"deadline": 0.2})
    service = Echo(of)

    async def ask() -> httpx.Response:
        async with client(of, service) as asking:
            return await asking.post(CHAT, json=chat("sleep", stream=stream))

    answer = asyncio.run(ask())
    assert answer.status_code == 504
    assert "no answer within 0.2 s" in answer.json()["error"]["message"]
    assert service.cancelled == 1


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/scores", "/v1/preferences"])
def test_nothing_that_the_document_allows_is_a_fault(path: str) -> None:
    """Made up from the OpenAPI document; the service itself, with vLLM behind it, is asked in `test_service.py`."""
    of = settings(limits={"deadline": 5})
    service, metrics = Echo(of), Metrics()
    app = create_app(of, service, Selector(of, service, metrics), metrics)
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path]["POST"]

    @given(case=operation.as_strategy())
    @fuzzing(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case[Any]) -> None:
        answer = case.call()
        assert answer.status_code < 500, (case.body, answer.text)

    ask()


def test_the_openapi_document_names_every_route() -> None:
    async def ask() -> Any:
        async with client(settings()) as asking:
            return (await asking.get("/openapi.json")).json()

    document = asyncio.run(ask())
    assert {"/v1/models", CHAT, "/v1/completions", "/v1/scores", "/v1/preferences", "/health", "/ready"} <= set(
        document["paths"]
    )
    chat_fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"selection", "preference", "messages", "temperature"} <= chat_fields.keys()
