"""Tests of context clusters."""

import pytest
import torch
from torch import Tensor

from trilemma.metrics import clusters

VOCAB, CTX = 40, 16


@pytest.fixture
def embedding() -> Tensor:
    """Return random embeddings; tokens below 20 and from 20 on lie apart."""
    found = torch.randn(VOCAB, 8, generator=torch.Generator().manual_seed(0))
    found[:20, 0] += 6
    found[20:, 0] -= 6
    return found


def two_topics(num_seqs: int) -> tuple[Tensor, Tensor]:
    """Return sequences whose two halves are documents of different topics."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 20, (num_seqs, CTX), generator=generator)
    tokens[:, CTX // 2 :] += 20
    document = torch.arange(2 * num_seqs).reshape(num_seqs, 2)
    return tokens, document.repeat_interleave(CTX // 2, dim=1)


def fit(
    tokens: Tensor, document: Tensor, embedding: Tensor, num: int = 2
) -> clusters.Fit:
    return clusters.fit(
        tokens,
        document,
        torch.ones_like(tokens, dtype=torch.bool),
        embedding=embedding,
        context_tokens=4,
        num_clusters=num,
        seed=0,
    )


def label(tokens: Tensor, document: Tensor, embedding: Tensor, num: int = 2) -> Tensor:
    return fit(tokens, document, embedding, num).labels


def test_contexts_do_not_reach_across_documents(embedding: Tensor) -> None:
    found = label(*two_topics(100), embedding).reshape(100, CTX)
    first, second = found[:, : CTX // 2], found[:, CTX // 2 :]
    assert len(set(first.flatten().tolist())) == 1
    assert set(first.flatten().tolist()).isdisjoint(second.flatten().tolist())


def test_contexts_within_a_document_reach_back(embedding: Tensor) -> None:
    tokens, document = two_topics(100)
    found = label(tokens, torch.zeros_like(document), embedding).reshape(100, CTX)
    assert (found[:, CTX // 2] == found[:, 0]).float().mean() > 0.5


def test_labels_do_not_depend_on_the_number_of_sequences_in_a_block(
    embedding: Tensor,
) -> None:
    tokens, document = two_topics(150)
    found = label(tokens, document, embedding, num=8)
    assert len(found) == 150 * CTX
    assert torch.equal(found, label(tokens, document, embedding, num=8))


def test_too_few_contexts_for_the_clusters_are_an_error(embedding: Tensor) -> None:
    tokens = torch.ones(5, CTX, dtype=torch.int64)
    message = (
        "evaluation.num_clusters: found 2; the held-out tokens have only 1 distinct "
        "contexts; lower it or hold out more text"
    )
    with pytest.raises(ValueError, match=message):
        label(tokens, torch.zeros_like(tokens), embedding)


def test_contexts_are_unit_vectors_however_the_sequences_are_cut(
    embedding: Tensor,
) -> None:
    tokens, document = two_topics(20)
    contexts = fit(tokens, document, embedding).contexts
    whole, parts = (
        torch.cat(
            [
                contexts.of(*part, embedding=embedding, context_tokens=4)
                for part in zip(tokens.split(size), document.split(size), strict=True)
            ]
        )
        for size in (20, 7)
    )
    assert torch.equal(whole, parts)
    assert torch.allclose(whole.norm(dim=1), torch.ones(20 * CTX))
