"""Kinds of tokens, such as numbers and starts of words, told by their text."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from trilemma.explanation.predicates import CHARACTER_CLASSES

KINDS = (
    "whitespace",
    "digits",
    "punctuation",
    "non-ascii",
    "capital",
    "new word",
    "continuation",
    "other",
)
"""A token is of the first kind that it fits, and `other` fits all."""


def of_vocabulary(token_text: Sequence[str]) -> Int64[Tensor, " vocab"]:
    """Return the kind of each token, as an index into KINDS."""
    return torch.tensor([_kind(text) for text in token_text])


def _kind(text: str) -> int:
    for index, name in enumerate(KINDS[:-1]):
        if CHARACTER_CLASSES[name][0].fullmatch(text):
            return index
    return len(KINDS) - 1
