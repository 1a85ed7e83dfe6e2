"""The parts of the service that need no cluster: settings, templates, scorers, the gate, the proof of a folder."""

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from ray.serve.schema import ServeDeploySchema

from actors.models import ModelError
from actors.publication import PublicationError, verify_canaries, verify_checksums
from actors.scorer import ScorerError
from serving import proof
from serving.__main__ import _given, _parser, main
from serving.app import settings_of
from serving.gate import Gate
from serving.prompts import conditioned, prompt_of
from serving.scoring import Scorers
from serving.settings import Release, Settings, engine_arguments, policy_folder
from tests.examples import tree
from tests.serving.echo import settings
from tests.tiny import make_model

FOLDER = Path(proof.__file__).parent
DPA = (
    "You are a helpful, respectful, and honest assistant who always responds to the user in a harmless way. "
    "Your response should maximize weighted rating = helpfulness*97 + verbosity*-26"
)
MINUS_15 = {"helpfulness": 0.965926, "verbosity": -0.258819}
USER = [{"role": "user", "content": "Hi {weights}"}]


def test_the_published_prompts() -> None:
    """DPA's example of -15 degrees is (97, -26); a field's name in a user's text stays what it is."""
    assert conditioned(USER, "dpa", MINUS_15)[0] == {"role": "system", "content": DPA}
    paper = (
        "You are a helpful assistant. Your response should maximize weighted rating = helpfulness*71 + verbosity*71."
    )
    half = {"helpfulness": 0.7071, "verbosity": 0.7071}
    assert conditioned(USER, "paper", half) == [{"role": "user", "content": f"{paper}\n\nHi {{weights}}"}]
    simpo = conditioned(USER, "simpo", half)[0]["content"]
    assert simpo.endswith("helpfulness*71 + verbosity*71. Context: Hi {weights} | Response: ")
    assert conditioned(USER, "steerlm", MINUS_15)[0]["content"].endswith("helpfulness:4,verbosity:0")


def test_phrases_tell_a_direction_to_a_model_that_reads_no_numbers() -> None:
    def asked(warmth: float, verbosity: float) -> str:
        content: str = conditioned(USER, "spoken", {"warmth": warmth, "verbosity": verbosity})[0]["content"]
        return content

    assert asked(0.71, 0.71) == "Hi {weights}\n\nAnswer warmly, in four sentences (warmth*71 + verbosity*71)."
    assert "Answer warmly, in one short sentence (" in asked(0.71, -0.71)
    assert "Answer kindly, in a long paragraph (" in asked(0.0, 1.0)
    assert "Answer kindly, in three words (" in asked(0.0, -1.0)
    assert "Answer coldly, in two sentences (" in asked(-1.0, 0.0)


def test_phrases_are_for_the_objectives_that_the_service_scores(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="phrases for warmth, and the objectives are helpfulness, verbosity"):
        conditioned(USER, "spoken", MINUS_15)
    scorers = {"helpfulness": "serving.rewards:warmth", "verbosity": "serving.rewards:verbosity"}
    given = {"policy": str(tiny_model), "without_keys": True, "template": "spoken"}
    with pytest.raises(ValueError, match="take another template"):
        Settings.model_validate(given | {"scorers": scorers})
    Settings.model_validate(given)


def test_a_direction_is_told_in_a_longer_conversation() -> None:
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    told = conditioned(talk, "paper", MINUS_15)
    assert [message["content"] for message in told[:3]] == ["Be kind.", "one", "two"]
    assert told[3]["content"].endswith("\n\nthree")
    assert conditioned(talk, "dpa", MINUS_15)[0]["content"] == f"{DPA}\n\nBe kind."
    assert talk[3]["content"] == "three", "the request itself is not changed"
    assert prompt_of(talk) == "three"
    assert prompt_of([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]) == "a"


def test_wrong_settings_say_what_is_allowed(tiny_model: Path) -> None:
    given: dict[str, Any] = {"policy": str(tiny_model), "without_keys": "true"}
    assert settings_of(given).policy == str(tiny_model)
    assert settings_of(given | {"limits": {"deadline": 5}}).limits.deadline == 5
    for wrong, message in (
        ({"polcy": 1}, "Extra inputs"),
        ({"limits": {"deadline": 0}}, "greater than 0"),
        ({"policy_replicas": {"min": 3}}, "fewer than min"),
        ({"name": "a:b"}, "no colon"),
        ({"policy": "/nowhere/at/all"}, "does not exist"),
        ({"without_keys": False}, "anyone who reaches the port"),
        ({"without_keys": False, "keys": ["ann"]}, "key 1 is not of the form"),
    ):
        with pytest.raises(ValueError, match=message):
            settings_of(given | wrong)


def test_a_run_directory_stands_for_its_policy(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    assert policy_folder(str(tmp_path)) == str(tmp_path / "policy")
    assert policy_folder("smollm2-135m-instruct") == "smollm2-135m-instruct"


def test_the_command_line_reaches_every_setting(tiny_model: Path) -> None:
    command = ["--policy", str(tiny_model), "--without-keys", "--follow", "--template", "dpa", "--name", "x"]
    command += ["--scorer", "a=m:f", "--scorer", "b=folder#head", "--judge", "m:g", "--set", "limits.deadline=7"]
    found = settings_of(_given(_parser().parse_args(command)))
    assert (found.name, found.template, found.judge) == ("x", "dpa", "m:g")
    assert found.scorers == {"a": "m:f", "b": "folder#head"}
    assert found.limits.deadline == 7
    with pytest.raises(ValueError, match="objective=module:function"):
        _given(_parser().parse_args([*command, "--scorer", "m:f"]))


def test_a_run_without_a_policy_is_served_only_while_it_is_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree()))
    assert main(["--policy", str(tmp_path), "--without-keys"]) == 1
    assert "has no policy/ yet; serve what it makes with --follow" in " ".join(capsys.readouterr().err.split())


def test_a_release_changes_in_place_and_everything_else_does_not() -> None:
    one = settings()
    released = one.model_copy(update={"release": Release(policy="b", version=2)})
    assert released.identity == one.identity
    assert released.served.version == 2
    assert settings(limits={"deadline": 3}).identity != one.identity


def test_the_limit_on_tokens_reaches_the_engine() -> None:
    assert "override_generation_config" not in engine_arguments(settings())
    limited = engine_arguments(settings(limits={"output_tokens": 9}))
    assert limited["override_generation_config"] == {"max_new_tokens": 9}


def test_scorers_that_are_not_there_are_refused_at_the_start(tiny_model: Path) -> None:
    for entry, message in (("tests.serving.scorers:nothing", "no function"), (str(tiny_model), "neither")):
        with pytest.raises(ScorerError, match=message):
            Scorers({"a": entry}, None)
    with pytest.raises(ScorerError, match="importing nowhere"):
        Scorers({}, "nowhere:judge")


def test_a_contradicting_judge_is_no_draw() -> None:
    first_wins = Scorers({}, "tests.serving.scorers:first")
    assert "contradicts itself" in str(asyncio.run(first_wins.compare(USER, ["a", "b"]))[1])


def test_the_gate_lets_a_change_wait_for_answers_and_answers_for_a_change() -> None:
    async def run() -> list[str]:
        gate, seen = Gate(), []

        async def answer(name: str, seconds: float) -> None:
            async with gate.shared():
                seen.append(f"{name} begins")
                await asyncio.sleep(seconds)
                seen.append(f"{name} ends")

        async def change() -> None:
            async with gate.alone(deadline=5):
                seen.append("change begins")
                await asyncio.sleep(0.02)
                seen.append("change ends")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(answer("one", 0.03))
            await asyncio.sleep(0.01)
            tasks.create_task(change())
            await asyncio.sleep(0.01)
            tasks.create_task(answer("two", 0.0))
            tasks.create_task(change())
        return seen

    seen = asyncio.run(run())
    assert seen[:4] == ["one begins", "one ends", "change begins", "change ends"]
    assert sorted(seen[4:]) == ["change begins", "change ends", "two begins", "two ends"]
    assert seen.index("two ends") == seen.index("two begins") + 1


def test_a_change_gives_up_when_an_answer_takes_too_long_and_lets_others_in() -> None:
    async def run() -> bool:
        gate = Gate()
        async with gate.shared():
            with pytest.raises(TimeoutError):
                async with gate.alone(deadline=0.01):
                    raise AssertionError("the change began while an answer was being written")
            async with gate.shared():
                return True

    assert asyncio.run(run())


def test_a_folder_is_prepared_with_its_checksums_and_canaries(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    found = proof.prepare(str(folder), 3, "float32", tmp_path / "out.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "out.safetensors")
    verify_checksums(3, tensors, found.checksums)
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]), "the tied head is written out"
    assert verify_canaries(found, found.canary_logprobs, 1e-9) == (0.0, 0.0)
    other = proof.prepare(str(make_model(tmp_path / "b", seed=1)), 4, "float32", tmp_path / "b.safetensors")
    with pytest.raises(PublicationError, match="canary log-probabilities differ"):
        verify_canaries(found, other.canary_logprobs, 1e-3)


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    assert proof.architecture(str(folder)) == proof.architecture(str(make_model(tmp_path / "b", seed=1)))
    assert proof.architecture(str(folder)) != proof.architecture(str(make_model(tmp_path / "c", layers=1)))
    shutil.copy(folder / "config.json", tmp_path / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks weights"):
        proof.prepare(str(folder), 0, "float32", tmp_path / "out.safetensors")


def test_the_dashboard_shows_metrics_that_exist() -> None:
    text = (FOLDER / "grafana.json").read_text("utf-8")
    assert json.loads(text)["panels"]
    declared = (FOLDER / "metrics.py").read_text("utf-8") + (FOLDER / "policy_server.py").read_text("utf-8")
    for name in {word.removeprefix("ray_").split("_bucket")[0] for word in re.findall(r"ray_nashloop_\w+", text)}:
        assert f'"{name.removesuffix("_total")}"' in declared, name


def test_the_deployed_configuration_is_one_that_serve_and_the_service_accept() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load((FOLDER / "config.yaml").read_text()))
    (application,) = config.applications
    found = Settings.model_validate({**application.args, "keys": ("a sha256:0",)})
    names = [deployment.name for deployment in application.deployments]
    assert names == [f"Policy:{found.name}", "Ingress"]
    releases = [Release.model_validate(deployment.user_config) for deployment in application.deployments]
    assert releases[0] == releases[1]
    assert isinstance(releases[0].preference, dict)
    assert releases[0].preference.keys() == found.scorers.keys()
