"""Llamas of a few million parameters with random weights, made on the spot; the text they write is letters."""

from itertools import product
from pathlib import Path
from string import ascii_lowercase

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")


def vocabulary_and_merges(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-pair vocabulary of `size` tokens: bytes, every pair of letters, then triples of letters.

    Random text gives every token something to be decoded to, without training a tokenizer.
    """
    from tokenizers import pre_tokenizers

    pairs = [(a, b) for a, b in product(ascii_lowercase, repeat=2)]
    triples = [(a + b, c) for a, b, c in product(ascii_lowercase, repeat=3)]
    base = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    if not len(base) <= size <= len(base) + len(pairs) + len(triples):
        raise ValueError(
            f"a vocabulary holds {len(base)} to {len(base) + len(pairs) + len(triples)} tokens, not {size}"
        )
    merges = [*pairs, *triples][: size - len(base)]
    tokens = [*base, *("".join(merge) for merge in merges)]
    return {token: i for i, token in enumerate(tokens)}, merges


def make_llama(
    folder: Path, *, hidden: int = 256, layers: int = 4, vocabulary: int = 4096, tied: bool = True, seed: int = 0
) -> Path:
    """Save a random Llama in float32 with its tokenizer and chat template; the defaults have 4.2 million parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    vocab, merges = vocabulary_and_merges(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[0], pad_token=SPECIAL[0])
    fast.chat_template = TEMPLATE
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
