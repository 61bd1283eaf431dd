"""Tests of the facts about tokens that probes are asked for."""

import pytest
import torch
from torch import Tensor

from trilemma.metrics.probe_tasks import TASKS, Labeller
from trilemma.sequences import Sequences

TEXTS = [" The", "(", " 42", ")", '"', "ing", " Paris", ".", " a"]


def labels(texts: list[str], *, document: Tensor | None = None) -> dict[str, list[int]]:
    tokens = torch.tensor([[TEXTS.index(text) for text in texts]])
    whole = Sequences(
        tokens,
        torch.zeros_like(tokens) if document is None else document[None],
        torch.zeros_like(tokens, dtype=torch.uint8),
        torch.zeros(*tokens.shape, 1),
    )
    found = Labeller(TEXTS).labels(whole).astype(int).T
    return dict(zip(TASKS, found.tolist(), strict=True))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("digits", [0, 0, 1, 0, 0, 0, 0, 0]),
        ("capital", [1, 0, 0, 0, 0, 0, 1, 0]),
        ("in_brackets", [0, 0, 1, 1, 0, 0, 0, 0]),
        ("in_quotes", [0, 0, 0, 0, 0, 1, 1, 1]),
        ("next_new_word", [0, 0, 0, 0, 0, 1, 0, 0]),
        ("next_punctuation", [1, 0, 1, 1, 0, 0, 1, 0]),
        ("late", [0, 0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_a_task_holds_where_the_text_says_so(task: str, expected: list[int]) -> None:
    texts = [" The", "(", " 42", ")", '"', "ing", " Paris", "."]
    assert labels(texts)[task] == expected


def test_the_next_token_is_of_the_same_document() -> None:
    document = torch.tensor([0, 0, 1, 1])
    found = labels([" a", " The", ".", "."], document=document)
    assert found["next_punctuation"] == [0, 0, 1, 0]
