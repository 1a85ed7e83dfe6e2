"""What two models say of the same answers: log-probabilities, divergences, and how entangled their gradients are.

Transformers computes it, not the engine: whole next-token distributions are needed, which an engine does not give.
Everything is of the distribution that was sampled from as far as temperature and allowed tokens go; with top-p or
top-k below the whole vocabulary the KL is that of the untruncated policy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from actors.config import AlignConfig
from actors.models import resolve_model
from actors.policy import DTYPES
from actors.records import Group
from algorithms.diagnostics import k1, k2, k3
from algorithms.divergence import entropy, kl_divergence, top_tokens
from algorithms.entanglement import last_layer_products
from algorithms.layout import Layout, pack_groups
from algorithms.logprobs import sequence_sums

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Likelihoods:
    """Sums over the tokens of each of A answers, [A] each, nats; `prompt` and `own` say which answer it is."""

    prompt: FloatArray
    """Index of the prompt."""
    own: FloatArray
    """1 where the policy wrote it, 0 where the reference did."""
    tokens: FloatArray
    engine: FloatArray
    """log-probability that the engine which sampled it recorded."""
    logprob: FloatArray
    """log pi(y)."""
    reference: FloatArray
    """log ref(y)."""
    k1: FloatArray
    k2: FloatArray
    k3: FloatArray
    """Estimates of the KL from the sampled tokens, token by token."""
    kl: FloatArray
    """Whole-vocabulary KL(pi || ref) at each position."""
    entropy: FloatArray
    top_mass: FloatArray
    top_entropy: FloatArray
    top_renormalised_entropy: FloatArray
    """Of the 10 most likely tokens; see `algorithms.divergence.TopTokens`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """`likelihoods` of all answers; `products` [n, 3] of the gradients of n pairs, chosen, rejected and inner."""

    likelihoods: Likelihoods
    products: FloatArray


def measure(config: AlignConfig, policy: str, reference: str, groups: Sequence[Group], name: str) -> Measured:
    """Judge-free figures of the policy called `name` on judged groups that hold its answers and the reference's.

    Of each group the best and the worst answer of the policy, as the panel has it, make a pair for entanglement.
    """
    torch.set_num_threads(config.rollout.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = [_load(config, model, device) for model in dict.fromkeys((policy, reference))]
    # One model when a policy is its own reference.
    pi, ref = models[0], models[-1]
    found, products = [], []
    for group in groups:
        layout = pack_groups([(group.prompt_ids.tolist(), [c.token_ids.tolist() for c in group.candidates])], True)
        with torch.no_grad():
            hidden = _hidden(pi, layout)
            other = hidden if ref is pi else _hidden(ref, layout)
            found.append(_rows(config, group, name, _sums(config, (pi, ref), (hidden, other), layout)))
            if pair := _best_and_worst(group, name):
                sides = [_side(config, pi, hidden, layout, k) for k in pair]
                products.append(last_layer_products(sides[0], sides[1]).double().cpu().numpy())
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in found]) for field in fields(Likelihoods)
    }
    return Measured(likelihoods=Likelihoods(**joined), products=np.array(products, dtype=np.float64).reshape(-1, 3))


def _load(config: AlignConfig, name: str, device: torch.device) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        resolve_model(name), dtype=DTYPES[config.model.dtype], trust_remote_code=config.model.trust_remote_code
    )
    return model.to(device).eval()


def _hidden(model: Any, layout: Layout) -> Tensor:
    """Hidden states that predict the completions' tokens, [N, d]."""
    mask = layout.attention_mask().to(model.device)[None, None]
    output = model.base_model(
        input_ids=layout.input_ids.to(model.device)[None],
        position_ids=layout.positions.to(model.device)[None],
        attention_mask=mask,
        use_cache=False,
    )
    hidden: Tensor = output.last_hidden_state[0][layout.predictor.to(model.device)]
    return hidden


def _logits(config: AlignConfig, model: Any, hidden: Tensor) -> Tensor:
    """[N, d] -> [N, V] float32, of the distribution that is sampled from."""
    logits: Tensor = model.get_output_embeddings()(hidden).float() / config.rollout.temperature
    if config.rollout.allowed_tokens is not None:
        allowed = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        allowed[list(config.rollout.allowed_tokens)] = True
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits


def _sums(
    config: AlignConfig, models: tuple[Any, Any], hidden: tuple[Tensor, Tensor], layout: Layout
) -> dict[str, FloatArray]:
    """Per answer, the sums over its tokens."""
    chunks = [
        _chunk(_logits(config, models[0], hidden[0][part]), _logits(config, models[1], hidden[1][part]), targets)
        for part, targets in _parts(layout, config.learner.chunk_tokens, hidden[0].device)
    ]
    sequence = layout.sequence.to(hidden[0].device)
    joined = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
    return {
        name: sequence_sums(values, sequence, layout.sequences).double().cpu().numpy()
        for name, values in joined.items()
    }


def _parts(layout: Layout, size: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    targets = layout.targets.to(device)
    for start in range(0, len(targets), size):
        yield slice(start, start + size), targets[start : start + size]


def _chunk(logits: Tensor, reference_logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Every figure of some tokens, [N] each; no more of the vocabulary than this exists at once."""
    own, other = (
        values.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1) for values in (logits, reference_logits)
    )
    top = top_tokens(logits, min(10, logits.shape[-1]))
    return {
        "logprob": own,
        "reference": other,
        "k1": k1(other - own),
        "k2": k2(other - own),
        "k3": k3(other - own),
        "kl": kl_divergence(logits, reference_logits),
        "entropy": entropy(logits),
        "top_mass": top.mass,
        "top_entropy": top.entropy,
        "top_renormalised_entropy": top.renormalised_entropy,
    }


def _rows(config: AlignConfig, group: Group, name: str, sums: dict[str, FloatArray]) -> Likelihoods:
    return Likelihoods(
        prompt=np.full(len(group.candidates), float(group.index)),
        own=np.array([float(c.policy == name) for c in group.candidates]),
        tokens=np.array([float(len(c.token_ids)) for c in group.candidates]),
        engine=np.array([float(c.logprobs.sum(dtype=np.float64)) for c in group.candidates]),
        **sums,
    )


def _best_and_worst(group: Group, name: str) -> tuple[int, int] | None:
    """Places of the policy's best and worst answer among its own; none where the panel can't tell them apart."""
    assert group.preference is not None
    own = np.array([k for k, c in enumerate(group.candidates) if c.policy == name and len(c.token_ids)], dtype=np.int64)
    if len(own) < 2:
        return None
    rates = group.preference[np.ix_(own, own)].mean(axis=1)
    best, worst = int(own[rates.argmax()]), int(own[rates.argmin()])
    return (best, worst) if group.preference[best, worst] > 0.5 else None


def _side(
    config: AlignConfig, model: Any, hidden: Tensor, layout: Layout, candidate: int
) -> tuple[Tensor, Tensor, Tensor]:
    places = layout.sequence.to(hidden.device) == candidate
    return hidden[places], _logits(config, model, hidden[places]), layout.targets.to(hidden.device)[places]
