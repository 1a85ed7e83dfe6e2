"""What `verify` plays: one preference game a context, the small model that plays them, and the judge that knows them.

Contract: a context is one prompt, an answer is one token. The reference of every game is the model's own answer
distribution at the start, read from its logits, so that the game which the loop plays is known exactly.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from actors.scorer import Judge
from algorithms.games import GENERATORS, FloatArray, Game

WIDTH = 64
"""Of the model. Its final norm makes every hidden state sqrt(WIDTH) long, so that rows of the output head with entries
of standard deviation 1 / sqrt(WIDTH) give standard normal logits, like the references of `algorithms.games`."""
SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 32, 256
"""Engines name the 20 most likely tokens of a canary, and the learner records all of them up to 256."""
END = "<end>"
OPTIONS: dict[str, dict[str, Any]] = {"bradley_terry": {"score_scale": 1.5}}
"""Generator options of a game where they differ from the generator's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """The games of one seed: one for each context, all with the same number of actions and the same beta."""

    games: tuple[Game, ...]
    answers: tuple[int, ...]
    """Token ids of the actions."""

    def log_policies(self, logprobs: Sequence[Mapping[str, float]]) -> FloatArray:
        """[contexts, actions] log-probabilities of the answers, from next-token log-probabilities by token id.

        Raises: ValueError when an answer is missing, which the exact policy can't be read without.
        """
        rows = [[context.get(str(token), np.nan) for token in self.answers] for context in logprobs]
        found = np.array(rows, dtype=np.float64)
        if found.shape != (len(self.games), len(self.answers)) or np.isnan(found).any():
            raise ValueError(
                f"need the log-probabilities of {len(self.answers)} answers in {len(self.games)} contexts, got "
                f"{found.shape[0]} contexts and {int(np.isnan(found).sum())} answers without one"
            )
        return np.asarray(found - logsumexp(found, axis=1, keepdims=True))


def context_name(place: int) -> str:
    """Text of a prompt, and one token."""
    return f"context{place}"


def answer_name(place: int) -> str:
    """Text of a completion, and one token."""
    return f"answer{place}"


def prepare(folder: Path, *, kind: str, contexts: int, actions: int, beta: float, seed: int) -> Match:
    """Make model, prompts and judge of one seed in `folder`: `model/`, `prompts.jsonl`, `game.json`.

    `kind`: a generator of `algorithms.games`. Every context has a matrix of its own.
    Raises: ValueError when the game can't be made, or `folder` holds another one.
    """
    if 1 + contexts + actions >= LARGEST_VOCABULARY:
        raise ValueError(f"{contexts} contexts and {actions} actions need more than {LARGEST_VOCABULARY} tokens")
    source = {"kind": kind, "contexts": contexts, "actions": actions, "beta": beta, "seed": seed}
    path = folder / "game.json"
    if path.exists() and (found := json.loads(path.read_text(encoding="utf-8"))["source"]) != source:
        raise ValueError(f"{path} holds the game {found}, asked for was {source}; choose another --output")
    make_policy(folder / "model", contexts=contexts, actions=actions, seed=seed)
    games = []
    for place, reference in enumerate(start_policy(folder / "model", contexts=contexts, actions=actions)):
        size = {} if kind == "rock_paper_scissors" else {"actions": actions}
        game = GENERATORS[kind](**size, beta=beta, seed=1000 * seed + place, **OPTIONS.get(kind, {}))
        games.append(game.with_reference(reference))
    lines = [json.dumps({"prompt": context_name(place)}) + "\n" for place in range(contexts)]
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")
    matrices = {context_name(place): game.preference.tolist() for place, game in enumerate(games)}
    answers = [answer_name(place) for place in range(actions)]
    path.write_text(json.dumps({"source": source, "answers": answers, "preference": matrices}) + "\n", encoding="utf-8")
    return Match(games=tuple(games), answers=answer_tokens(contexts, actions))


def judge(game: str) -> Judge:
    """The judge of the `game.json` that `prepare` wrote: the probability in the context's matrix."""
    tree = json.loads(Path(game).read_text(encoding="utf-8"))
    place = {text: i for i, text in enumerate(tree["answers"])}
    matrices = tree["preference"]

    def preferred(prompt: str, first: str, second: str) -> float:
        return float(matrices[prompt][place[first.strip()]][place[second.strip()]])

    return preferred


def answer_tokens(contexts: int, actions: int) -> tuple[int, ...]:
    """Token ids of the answers: they follow the end token and the contexts."""
    return tuple(range(1 + contexts, 1 + contexts + actions))


def make_policy(folder: Path, *, contexts: int, actions: int, seed: int) -> None:
    """Save a small random Llama whose last prompt token is the context, so that contexts hardly share anything."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = _tokenizer(contexts, actions)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        eos_token_id=0,
        bos_token_id=None,
        pad_token_id=0,
        initializer_range=WIDTH**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def start_policy(folder: Path, *, contexts: int, actions: int) -> FloatArray:
    """[contexts, actions] log-probabilities of the answers under the saved model, in float32."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = torch.arange(1, 1 + contexts)[:, None]
    with torch.no_grad():
        logits = model(prompts).logits[:, -1, list(answer_tokens(contexts, actions))]
    return np.asarray(logits.double().log_softmax(-1).numpy(), dtype=np.float64)


def _tokenizer(contexts: int, actions: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [END, *map(context_name, range(contexts)), *map(answer_name, range(actions))]
    words += [f"spare{place}" for place in range(SMALLEST_VOCABULARY - len(words))]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return fast
