"""Context clusters: a label for every token, from the words that lead up to it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor

_SIF = 1e-3
"""Constant a of the weights a / (a + p(token)) (Arora, Liang and Ma 2017, eq. 3)."""
_FIT_ROWS = 16_384
_BLOCK_SEQS = 64


class Contexts(NamedTuple):
    """How a token's context becomes a vector, beside the LM's embedding."""

    weight: Float[Tensor, " vocab"]
    """Weight of each token: the rarer, the more."""
    centre: Float[Tensor, " d_model"]
    """Mean context, which all contexts have in common."""

    def of(
        self,
        tokens: Int64[Tensor, "seq pos"],
        document: Int64[Tensor, "seq pos"],
        *,
        embedding: Float[Tensor, "vocab d_model"],
        context_tokens: int,
    ) -> Float[Tensor, "row d_model"]:
        """Return each token's context about the centre at unit norm, or zero."""
        found = _contexts(tokens, document, embedding, self.weight, context_tokens)
        return _unit(found.reshape(-1, found.shape[-1]) - self.centre)


class Fit(NamedTuple):
    """Clusters of contexts, as they were found on a split."""

    contexts: Contexts
    labels: Int32[Tensor, " row"]
    """The cluster of each token's context."""


def fit(
    tokens: Int64[Tensor, "seq pos"],
    document: Int64[Tensor, "seq pos"],
    counted: Bool[Tensor, "seq pos"],
    *,
    embedding: Float[Tensor, "vocab d_model"],
    context_tokens: int,
    num_clusters: int,
    seed: int,
) -> Fit:
    """Return the clusters of all tokens' contexts, by k-means on unit vectors.

    A context is the weighted mean of the LM's input embeddings over the last
    `context_tokens` tokens, the current one included, within the row and document.
    The clusters are fitted on an even sample of the counted tokens.
    """
    weight = _sif_weights(tokens, num_tokens=len(embedding))
    step = -(-int(counted.sum()) // _FIT_ROWS)

    def blocks() -> Iterator[Float[Tensor, "row d_model"]]:
        for start in range(0, len(tokens), _BLOCK_SEQS):
            part = slice(start, start + _BLOCK_SEQS)
            context = _contexts(
                tokens[part], document[part], embedding, weight, context_tokens
            )
            yield context.reshape(-1, context.shape[-1])

    flat = counted.reshape(-1)
    chosen = torch.zeros_like(flat)
    chosen[flat.nonzero()[:, 0][::step]] = True
    starts = range(0, len(flat), _BLOCK_SEQS * tokens.shape[1])
    found = torch.cat(
        [
            block[chosen[start : start + len(block)]]
            for start, block in zip(starts, blocks(), strict=True)
        ]
    )
    centre = found.mean(0)
    sample = _unit(found - centre).numpy()
    distinct = len(np.unique(sample, axis=0))
    if distinct < num_clusters:
        raise ValueError(
            f"evaluation.num_clusters: found {num_clusters}; the held-out tokens have "
            f"only {distinct} distinct contexts; lower it or hold out more text"
        )
    with threadpool_limits(limits=1):
        # More threads add the centres up in another order: other bits.
        model = KMeans(num_clusters, n_init=1, random_state=seed).fit(sample)
    centres = torch.from_numpy(model.cluster_centers_)
    bias = centres.square().sum(1) / 2
    nearest = torch.cat(
        [
            (_unit(block - centre) @ centres.T - bias).argmax(1).int()
            for block in blocks()
        ]
    )
    return Fit(Contexts(weight, centre), nearest)


def _sif_weights(
    tokens: Int64[Tensor, "seq pos"], *, num_tokens: int
) -> Float[Tensor, " vocab"]:
    count = torch.bincount(tokens.reshape(-1), minlength=num_tokens).double()
    return _SIF / (_SIF + count / tokens.numel())


def _contexts(
    tokens: Int64[Tensor, "seq pos"],
    document: Int64[Tensor, "seq pos"],
    embedding: Float[Tensor, "vocab d_model"],
    weight: Float[Tensor, " vocab"],
    context_tokens: int,
) -> Float[Tensor, "seq pos d_model"]:
    """Return the weighted mean embedding of the window that ends at each token."""
    num_seqs, ctx = tokens.shape
    w = weight[tokens]
    weighted = embedding[tokens].double() * w[..., None]
    sums = weighted.new_zeros(num_seqs, ctx + 1, embedding.shape[1])
    torch.cumsum(weighted, 1, out=sums[:, 1:])
    weights = w.new_zeros(num_seqs, ctx + 1)
    torch.cumsum(w, 1, out=weights[:, 1:])
    position = torch.arange(ctx, device=tokens.device).expand(num_seqs, ctx)
    begins = torch.ones_like(document, dtype=torch.bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    first = torch.where(begins, position, 0).cummax(1).values
    start = torch.maximum(first, position - (context_tokens - 1))
    before = sums.gather(1, start[..., None].expand(-1, -1, sums.shape[2]))
    total = weights[:, 1:] - weights.gather(1, start)
    return ((sums[:, 1:] - before) / total[..., None]).float()


def _unit(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    norm = rows.square().sum(1, keepdim=True).sqrt()
    return rows / norm.where(norm > 0, 1.0)
