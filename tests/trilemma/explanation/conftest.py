"""A small synthetic corpus, packed as real ones are, for all explanation tests."""

from typing import NamedTuple

import numpy as np
import pytest

from trilemma.config.stages import Explanation
from trilemma.explanation.rows import Rows, lay_out

NUM_SEQS, CTX, VOCAB = 480, 64, 160


class Text(NamedTuple):
    """What a corpus leaves: sequences of tokens with their documents and mask."""

    tokens: np.ndarray
    document: np.ndarray
    mask: np.ndarray
    token_text: list[str]


@pytest.fixture(scope="session")
def text() -> Text:
    generator = np.random.default_rng(0)
    total = NUM_SEQS * CTX
    weights = 1 / np.arange(1, VOCAB)
    tokens = generator.choice(
        np.arange(1, VOCAB), size=total, p=weights / weights.sum()
    )
    lengths = generator.integers(20, 250, size=total // 20)
    document = np.repeat(1000 + 7 * np.arange(len(lengths)), lengths)[:total]
    tokens[np.append(document[1:] != document[:-1], True)] = 0
    tokens, document = tokens.reshape(NUM_SEQS, CTX), document.reshape(NUM_SEQS, CTX)
    mask = np.where(tokens == 0, 1, 0).astype(np.uint8)
    mask[:, 0] |= 2
    order = generator.permutation(NUM_SEQS)
    odd = ["(", ")", "[", "]", '"', " 12", " Paris", "!?", "\n", "é", "a_b", " HTML"]
    words = [f" w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(VOCAB)]
    token_text = ["<|endoftext|>", *words[1:40], *odd, *words[40 + len(odd) :]]
    return Text(
        tokens[order].astype(np.int32),
        document[order].astype(np.int64),
        mask[order],
        token_text,
    )


@pytest.fixture(scope="session")
def rows(text: Text) -> Rows:
    return lay_out(
        text.tokens, document=text.document, mask=text.mask, token_text=text.token_text
    )


@pytest.fixture
def config() -> Explanation:
    return Explanation.model_validate({"num_examples": 6, "num_resamples": 200})
