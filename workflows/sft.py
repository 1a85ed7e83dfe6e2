"""Supervised start: `python -m workflows.sft --config configs/ladder/1m.yaml [--set key=value ...]`.

Trains a language model, a given one or a small one made on the spot, on the answers of conversations, and leaves a run
directory with the model folder `policy`. Run again, it goes on where it was. Conversations that don't exist yet are
written by a model of your choice first.
"""

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from actors.deadlines import DeadlineExceeded
from actors.models import load_tokenizer, render_prompt, require_chat_template, resolve_model
from actors.prompts import PromptError, messages_of, read_rows
from actors.records import Message
from actors.sft import METRICS_FILE, Example, SftConfig, WriterConfig, sft_loop
from workflows.align import BAD_INPUT, connect
from workflows.answers import Contestant, answers_of, load_questions
from workflows.command_line import config_parser
from workflows.config import ConfigError, load_config, override, parse_tree, read_tree
from workflows.run_directory import environment
from workflows.small_model import make_small_model
from workflows.training import Training, torch_trainer, unfinished

Conversation = tuple[tuple[Message, ...], str]
"""A prompt and its answer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = config_parser("sft", __doc__, "configs/ladder/1m.yaml", "the configuration").parse_args(argv)
    console = Console()
    try:
        config = parse_tree(override(read_tree(arguments.config), arguments.set), SftConfig)
        if arguments.dry_run:
            console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), highlight=False)
            return 0
        summary = sft(config, arguments.address, console)
    except (*BAD_INPUT, DeadlineExceeded) as error:
        Console(stderr=True).print(f"{type(error).__name__}: {error}", style="red", highlight=False, markup=False)
        return 1
    console.print(
        f"held-out loss {summary['heldout_loss']:.3f} nats a token; model: {config.directory}/{config.name}/policy",
        highlight=False,
        markup=False,
    )
    return 0


def sft(config: SftConfig, address: str | None = None, console: Console | None = None) -> dict[str, Any]:
    """One run, from its configuration to its run directory; returns what `summary.json` holds.

    Raises: one of `BAD_INPUT`.
    """
    console = console or Console()
    began = time.monotonic()
    with unfinished(config) as directory:
        connect(address)
        path = Path(config.data.conversations)
        if config.data.writer and not path.exists():
            write_conversations(path, config.data.writer, config.seed, console)
        conversations = load_conversations(path)
        folder = _start(config, conversations, directory.path)
        examples, heldout = split(encode(folder, conversations), config.data.heldout_share)
        directory.write_json("environment.json", environment())
        told = {"config": config, "folder": folder, "examples": examples, "heldout": heldout}
        learner = config.learner
        training = Training(torch_trainer(sft_loop, told, learner, directory.path, learner.checkpoints_kept))
        training.watch(directory.path / METRICS_FILE, config.steps, config.deadline, "deadline", console)
        metrics = json.loads((directory.path / METRICS_FILE).read_text(encoding="utf-8").splitlines()[-1])
        summary = {"status": "finished", **metrics, "seed": config.seed, "wall_seconds": time.monotonic() - began}
        directory.write_json("summary.json", summary)
        return summary


def write_conversations(path: Path, writer: WriterConfig, seed: int, console: Console) -> None:
    """Let the model of an `align` configuration answer its prompts, and keep what it finished.

    The system message with which it was asked is left out: what is to be learned is to answer like this without it.
    """
    config = load_config(writer.config)
    asked = load_questions(config, config.data.prompts)
    contestant = Contestant(
        name=config.model.name, model=config.model.name, config=config, directory=path.parent, prefix=path.stem
    )
    answers = answers_of(contestant, asked, writer.samples, seed, console)
    lines = []
    for group in answers:
        prompt = [message for message in group.messages if message["role"] != "system"]
        for candidate in group.candidates:
            if not candidate.truncated and candidate.text.strip():
                answer = {"role": "assistant", "content": candidate.text.strip()}
                lines.append(json.dumps({"messages": [*prompt, answer]}, ensure_ascii=False) + "\n")
    part = path.with_suffix(".part")
    part.write_text("".join(lines), encoding="utf-8")
    part.rename(path)


def load_conversations(path: Path) -> list[Conversation]:
    """Read every conversation of a file.

    Raises: `PromptError` for a file that can't be used, or a row that isn't a conversation with an answer.
    """
    found = []
    for where, row in read_rows(path, "conversations file"):
        messages = row.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else None
        if not isinstance(last, dict) or last.get("role") != "assistant" or not str(last.get("content") or "").strip():
            raise PromptError(f"the messages in {where} don't end with an assistant's answer")
        assert isinstance(messages, list)
        found.append((messages_of({**row, "messages": messages[:-1]}, where), str(last["content"])))
    if not found:
        raise PromptError(f"conversations file {str(path)!r} is empty; it needs at least one conversation")
    return found


def encode(folder: str, conversations: Sequence[Conversation]) -> list[Example]:
    """Token ids of every prompt, through the model's chat template, and of its answer with the end token.

    Raises: `PromptError` when one is longer than the model's context.
    """
    from transformers import AutoConfig

    tokenizer = load_tokenizer(folder)
    require_chat_template(tokenizer)
    limit = AutoConfig.from_pretrained(folder).max_position_embeddings
    examples = []
    for place, (prompt, answer) in enumerate(conversations, start=1):
        ids: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"]
        example = (render_prompt(tokenizer, prompt), [*ids, tokenizer.eos_token_id])
        if (length := len(example[0]) + len(example[1])) > limit:
            raise PromptError(f"conversation {place} has {length} tokens, and the model has {limit} positions")
        examples.append(example)
    return examples


def split(examples: Sequence[Example], heldout_share: float) -> tuple[list[Example], list[Example]]:
    """Trained and held-out examples: the last ones are held out, so that answers to one prompt stay together.

    Raises: `ConfigError` when nothing is left to train.
    """
    count = math.ceil(heldout_share * len(examples))
    if count >= len(examples):
        raise ConfigError(f"data.heldout_share = {heldout_share:g} leaves nothing of {len(examples)} conversations")
    return list(examples[: len(examples) - count]), list(examples[len(examples) - count :])


def _start(config: SftConfig, conversations: Sequence[Conversation], directory: Path) -> str:
    """Folder or id of the model to go on from."""
    if config.make is None:
        assert config.model is not None
        return resolve_model(config.model)
    folder = directory / "start"
    if not folder.exists():
        texts = [text for prompt, answer in conversations for text in (*(m["content"] for m in prompt), answer)]
        make_small_model(folder, config.make, texts, config.seed)
    return str(folder)


if __name__ == "__main__":
    sys.exit(main())
