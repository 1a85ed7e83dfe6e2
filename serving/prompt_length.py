"""How many tokens the prompts of a request have, by the engine's own tokenizer and chat template."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from vllm.entrypoints.serve.tokenize.protocol import TokenizeChatRequest, TokenizeCompletionRequest, TokenizeResponse

Tokenize = Callable[[TokenizeChatRequest | TokenizeCompletionRequest], Awaitable[Any]]
"""vLLM's answer, which is no `TokenizeResponse` where it refuses the prompt."""


async def longest_prompt(body: Mapping[str, Any], tokenize: Tokenize) -> int:
    """Tokens of the longest prompt in the body of a chat or of a completion; one that can't be read counts as 0."""
    if "messages" in body:
        known = TokenizeChatRequest.model_fields.keys() & body.keys()
        return await _count(TokenizeChatRequest(**{name: body[name] for name in known}), tokenize)
    prompt = body.get("prompt")
    prompts = prompt if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt) else [prompt]
    special = {"add_special_tokens": body.get("add_special_tokens", True)}
    lengths = [
        len(one) if isinstance(one, list) else await _count(TokenizeCompletionRequest(prompt=one, **special), tokenize)
        for one in prompts
    ]
    return max(lengths, default=0)


async def _count(request: TokenizeChatRequest | TokenizeCompletionRequest, tokenize: Tokenize) -> int:
    answer = await tokenize(request)
    return answer.count if isinstance(answer, TokenizeResponse) else 0
