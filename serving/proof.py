"""A model folder as a publication: what an engine has to load, and the proof that it did.

The same proof as in the loop (`actors/publication.py`): the checksum of every tensor, and the most likely next tokens
of a few canaries, which transformers computes here from the folder and the engine has to agree on.
"""

import gc
import json
from pathlib import Path

import safetensors.torch
import torch

from actors.models import check_model_folder, load_tokenizer
from actors.publication import LEARNER_TOKENS, Canary, Publication, checksum

CANARY_TOKENS = 16
CANARY_TEXTS = (
    "The capital of France is",
    "def add(first, second):\n    return",
    "Dear Ms. Miller, thank you for your letter. I am happy to tell you that",
    "Two plus three is five, and three plus four is",
)


def prepare(folder: str, version: int, dtype: str, file: Path) -> Publication:
    """Write the weights that an engine loads to `file`, and say what it has to answer with them.

    The output head is written out even where it is tied to the embeddings: vLLM does not refresh a tied one.
    Raises: `ModelError` for a folder that is missing, incomplete or unreadable.
    """
    from transformers import AutoModelForCausalLM

    check_model_folder(Path(folder))
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    canaries = tuple(tuple(tokenizer(text)["input_ids"][-CANARY_TOKENS:]) for text in CANARY_TEXTS)
    with torch.no_grad():
        expected = tuple(_most_likely(model, canary) for canary in canaries)
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors["lm_head.weight"] = model.get_input_embeddings().weight.detach().clone()
    safetensors.torch.save_file(tensors, file)
    found = Publication(
        version=version,
        payload=str(file),
        checksums={name: checksum(value) for name, value in tensors.items()},
        adapter_config=None,
        canaries=canaries,
        canary_logprobs=expected,
    )
    del model, tensors
    gc.collect()
    return found


def architecture(folder: str) -> dict[str, object]:
    """What has to be the same for weights to be loaded into a running engine.

    Raises: `ModelError` for a folder that is missing, incomplete or unreadable.
    """
    check_model_folder(Path(folder))
    config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    names = ("architectures", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size")
    return {name: config.get(name) for name in names}


def _most_likely(model: torch.nn.Module, canary: Canary) -> dict[int, float]:
    logprobs = model(torch.tensor([canary])).logits[0, -1].float().log_softmax(-1)
    best = logprobs.topk(min(LEARNER_TOKENS, len(logprobs)))
    return dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
