"""How much the answers of a policy repeat themselves and each other."""

from collections.abc import Sequence


def distinct_n(answers: Sequence[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of these answers' tokens, in (0, 1]; distinct-n of Li et al., 1510.03055.

    It falls as text grows, so compare only policies with as many answers of like length. NaN where no answer has n
    tokens.
    """
    if n < 1:
        raise ValueError(f"an n-gram has at least one token, got n = {n}")
    grams = [tuple(answer[i : i + n]) for answer in answers for i in range(len(answer) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")
