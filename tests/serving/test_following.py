"""What the name of a policy stands for: folders, links, and a run that goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from serving import proof
from serving.following import KEPT, Found, look, release_of, start_of
from tests.serving.runs import checkpoint, make_run, policy_of
from tests.tiny import make_model


def seen(name: Path) -> Found:
    found = look(str(name))
    assert found is not None
    return found


def test_a_look_changes_with_the_files_and_with_the_link(tmp_path: Path) -> None:
    first, link = make_model(tmp_path / "first"), tmp_path / "link"
    link.symlink_to(first)
    looks = [look(str(link)), look(str(link))]
    assert looks[0] == looks[1]
    (first / "more").write_text("x")
    looks.append(look(str(link)))
    link.unlink()
    looks.append(look(str(link)))
    link.symlink_to(make_model(tmp_path / "second"))
    looks.append(look(str(link)))
    assert len(set(looks)) == 4
    assert looks[3] is None


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Path:
    return make_run(tmp_path / "run", tiny_model)


def test_a_run_that_goes_on_stands_for_its_newest_checkpoint(run: Path, tiny_model: Path) -> None:
    assert start_of(str(run)) == str(tiny_model)
    assert not seen(run).is_checkpoint
    checkpoint(run, 10)
    first = seen(run)
    assert first == seen(run)
    checkpoint(run, 20)
    assert seen(run) != first
    assert seen(run).is_checkpoint
    release = release_of(seen(run), version=1, preference=20.0)
    assert (release.version, release.preference) == (20, 20.0)
    assert Path(release.policy) == run / "served" / "version-00000020"


def test_a_checkpoint_becomes_the_policy_that_the_learner_held(run: Path, tmp_path: Path) -> None:
    moved = checkpoint(run, 3)
    release = release_of(seen(run), version=1, preference=None)
    policy = policy_of(run)
    ids = torch.tensor([[5, 9, 200, 31]])
    with torch.no_grad(), policy.under(moved):
        expected = policy.model(ids).logits
        found = AutoModelForCausalLM.from_pretrained(release.policy, dtype=torch.float32)(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    # What the service proves is a folder like any other.
    assert proof.prepare(release.policy, release.version, "float32", tmp_path / "out.safetensors").version == 3


def test_only_the_newest_folders_stay(run: Path) -> None:
    for version in (2, 4, 6):
        checkpoint(run, version)
        release_of(seen(run), version=1, preference=None)
    kept = sorted(path.name for path in (run / "served").iterdir())
    assert kept == ["version-00000004", "version-00000006"]
    assert len(kept) == KEPT


def test_a_finished_run_has_no_start_to_serve_meanwhile(run: Path) -> None:
    make_model(run / "policy")
    assert start_of(str(run)) is None
    assert seen(run).place == run / "policy"
    release = release_of(seen(run), version=1, preference=None)
    assert (release.policy, release.version) == (str(run / "policy"), 1)


def test_a_model_folder_is_no_run_and_another_run_can_not_be_followed(tmp_path: Path, tiny_model: Path) -> None:
    assert start_of(str(tiny_model)) is None
    other: dict[str, Any] = {"name": "sft", "steps": 3}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ValueError, match="no `align` run"):
        start_of(str(tmp_path))
