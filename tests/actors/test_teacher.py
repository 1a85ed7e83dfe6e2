"""The teacher's candidates are tokens of the policy's tokenizer, join their group, and claim no log-probabilities."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from actors.config import AlignConfig
from actors.endpoint import Answer, EndpointError
from actors.records import Group, GroupRequest, GroupSummary, Part, Sampling, from_arrow, to_arrow
from actors.teacher import CALLS_FILE, Teacher, encode, engine_config, probe
from tests.endpoint import Reply, Server, completion, serve
from tests.examples import SAMPLING, config, group
from tests.tiny import make_tokenizer

TOKENIZER = make_tokenizer()
END = TOKENIZER.eos_token_id


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as found:
        yield found


@pytest.fixture
def configure(server: Server, tiny_model: Path) -> Callable[..., AlignConfig]:
    def make(**changes: Any) -> AlignConfig:
        options = {"model": "large", "endpoint": server.address, "max_calls": 100, "attempts": 1}
        return config(model__name=str(tiny_model), teacher=options | changes)

    return make


def request(*seeds: int, sampling: Sampling = SAMPLING) -> GroupRequest:
    part = Part(role="pair", policy="teacher", seeds=seeds, sampling=sampling)
    messages = ({"role": "user", "content": "Why?"},)
    return GroupRequest(id="s0-e0-00000003", index=3, epoch=0, version=9, messages=messages, parts=(part,))


def generate(
    configuration: AlignConfig, folder: Path, asked: GroupRequest, earlier: pa.RecordBatch | None = None
) -> tuple[GroupSummary, Group]:
    async def run() -> tuple[GroupSummary, pa.RecordBatch]:
        teacher = Teacher("teacher-0", configuration, str(folder))
        await teacher.start()
        try:
            # Ray's decorator types the method as a remote one; on the object itself it is an ordinary call.
            return cast("tuple[GroupSummary, pa.RecordBatch]", await cast(Any, teacher).generate(asked, earlier))
        finally:
            await teacher.stop()

    summary, batch = asyncio.run(run())
    return summary, from_arrow(batch)[0]


def ids(text: str) -> Sequence[int]:
    return cast(list[int], TOKENIZER(text, add_special_tokens=False)["input_ids"])


def test_a_complete_answer_ends_as_the_policy_ends() -> None:
    assert encode(TOKENIZER, Answer(text="yes", complete=True), 16) == ([*ids("yes"), END], True)
    assert encode(TOKENIZER, Answer(text="yes", complete=False), 16) == (ids("yes"), False)


def test_an_answer_that_is_too_long_is_cut_and_not_complete() -> None:
    assert encode(TOKENIZER, Answer(text="yes", complete=True), 4) == ([*ids("yes"), END], True)
    assert encode(TOKENIZER, Answer(text="yes", complete=True), 3) == (ids("yes"), False)
    assert encode(TOKENIZER, Answer(text="yes", complete=True), 2) == (ids("ye"), False)


def test_a_special_token_that_is_spelt_out_stays_text() -> None:
    token_ids, _ = encode(TOKENIZER, Answer(text="a<|end|>b", complete=False), 64)
    assert END not in token_ids
    assert TOKENIZER.decode(token_ids) == "a<|end|>b"


def test_a_group_begins_with_the_teacher(configure: Any, server: Server, tmp_path: Path) -> None:
    server.script = [Reply(body=completion("yes"))]
    summary, found = generate(configure(), tmp_path, request(11, 12))
    assert (found.id, found.index, found.version, found.engine) == ("s0-e0-00000003", 3, 9, "teacher-0")
    assert list(found.prompt_ids) == TOKENIZER.apply_chat_template(
        list(found.messages), add_generation_prompt=True, return_dict=False
    )
    assert [(c.seed, c.role, c.policy, c.text) for c in found.candidates] == [
        (11, "pair", "teacher", "yes"),
        (12, "pair", "teacher", "yes"),
    ]
    for candidate in found.candidates:
        assert list(candidate.token_ids) == [*ids("yes"), END]
        assert np.isnan(candidate.logprobs).all()
        assert len(candidate.logprobs) == len(candidate.token_ids)
        assert (candidate.oldest_version, candidate.finish_reason) == (0, "stop")
    assert summary.lengths == (4, 4)
    assert {asked["seed"] for asked in server.requests} == {11, 12}


def test_the_teacher_joins_a_group(configure: Any, tmp_path: Path) -> None:
    before = replace(group(0, [1, 2], [[5, 6], [7]]), preference=None, scorer=None)
    _, found = generate(configure(), tmp_path, request(1), to_arrow([before]))
    assert [c.policy for c in found.candidates] == ["current", "current", "teacher"]
    assert list(found.prompt_ids) == [1, 2]
    assert found.engine == "engine-0+teacher-0"


def test_a_cut_answer_is_marked(configure: Any, server: Server, tmp_path: Path) -> None:
    server.script = [Reply(body=completion("cut", "length"))]
    summary, found = generate(configure(), tmp_path, request(1))
    assert found.candidates[0].truncated
    assert summary.truncated == 1
    assert END not in found.candidates[0].token_ids


def test_one_failure_fails_the_group(configure: Any, server: Server, tmp_path: Path) -> None:
    server.script = [Reply(body=completion()), Reply(status=400, body="no")]
    with pytest.raises(EndpointError, match="status 400: no") as raised:
        generate(configure(), tmp_path, request(1, 2))
    assert raised.value.name == "teacher_failed"


def test_the_cap_is_kept_in_the_run_directory(configure: Any, tmp_path: Path) -> None:
    generate(configure(max_calls=3), tmp_path, request(1, 2))
    assert (tmp_path / CALLS_FILE).stat().st_size == 2
    with pytest.raises(EndpointError) as raised:
        generate(configure(max_calls=3), tmp_path, request(1, 2))
    assert raised.value.name == "teacher_budget"


def test_the_probe_tells_of_a_teacher_that_is_down(configure: Any, server: Server, tmp_path: Path) -> None:
    probe(configure(), str(tmp_path))
    assert len(server.requests) == (tmp_path / CALLS_FILE).stat().st_size == 1
    with pytest.raises(EndpointError, match="ConnectError"):
        probe(configure(endpoint="http://127.0.0.1:9/v1"), str(tmp_path))


def test_a_folder_gets_an_engine_of_its_own() -> None:
    given = config(teacher={"model": "larger", "engine": {"tensor_parallel": 2, "gpus": 2}})
    assert engine_config(given).model.name == "larger"
    assert engine_config(given).rollout.gpus == 2
    assert engine_config(given).model.context == given.model.context
    assert engine_config(config(teacher={"model": "larger"})).rollout == given.rollout
