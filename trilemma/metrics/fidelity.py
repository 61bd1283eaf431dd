"""Fidelity: what the LM's predictions lose when a reconstruction is spliced in."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from trilemma.metrics import coders
from trilemma.metrics.coders import Coder
from trilemma.sequences import Sequences

METRIC_VERSION = 1
LEAST_CE_GAP = 1e-3
"""Nats per token that an ablation must cost before a share of it means anything."""

LEAST_KL = 1e-5
"""Nats per token that a random error must cost before a ratio to it means anything;
the rounding of float32 logits is some 1e-7."""


@runtime_checkable
class SplicedLM(Protocol):
    """An LM that can be run with one hook's activations replaced."""

    @property
    def predicts_next(self) -> bool:
        """Return whether the logits are of the next token, as an encoder's are not."""

    def logits(
        self, tokens: Int64[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits of the next token."""

    def logits_replaced(
        self,
        tokens: Int64[Tensor, "batch pos"],
        hook: str,
        x_hat: Float[Tensor, "batch pos d_in"],
    ) -> Float[Tensor, "batch pos vocab"]:
        """Return the logits with the output of the hook replaced by `x_hat`."""

    def embedding(self) -> Float[Tensor, "vocab d_model"]:
        """Return the input embedding."""


class Ablations(NamedTuple):
    """Sums over each document of the cross-entropies, in nats, that need no SAE."""

    num_tokens: Float64[np.ndarray, " document"]
    """Predictions made from unmasked tokens."""
    clean: Float64[np.ndarray, " document"]
    """Nothing replaced."""
    zero: Float64[np.ndarray, " document"]
    """Zeros in place of activations."""
    mean: Float64[np.ndarray, " document"]
    """The dataset's mean in place of activations."""
    resample: Float64[np.ndarray, " document"]
    """Training rows drawn at random in place of activations."""


class Splices(NamedTuple):
    """Sums over each document of what splicing an SAE's reconstructions in does."""

    num_tokens: Float64[np.ndarray, " document"]
    """Predictions made from unmasked tokens."""
    ce: Float64[np.ndarray, " document"]
    """Cross-entropy in nats."""
    kl: Float64[np.ndarray, " document"]
    """KL(clean | spliced) in nats."""
    top1_agree: Float64[np.ndarray, " document"]
    """Predictions whose most likely token stays."""
    kl_noise: Float64[np.ndarray, " document"]
    """KL(clean | x plus an error as long as the SAE's, in a random direction)."""


def ablations(
    lm: SplicedLM,
    batches: Iterable[Sequences],
    *,
    hook: str,
    mean: Float[Tensor, " d_in"],
    others: Float[Tensor, "other d_in"],
    documents: Int64[np.ndarray, " document"],
    num_seqs: int,
    batch_seqs: int,
    seed: int,
) -> Ablations:
    """Return the losses with the hook zeroed, at its mean, and at `others` at random.

    Only unmasked tokens are replaced, and only predictions from them count.
    """

    def losses(first: int, batch: Sequences) -> Float64[Tensor, "batch pos column"]:
        zero, targets = torch.zeros_like(batch.x), batch.tokens[:, 1:]
        drawn = [
            generator.integers(len(others), size=batch.tokens.shape[1])
            for generator in _generators(seed, first, batch)
        ]
        resampled = others[torch.from_numpy(np.stack(drawn))].to(batch.x)
        columns = [_cross_entropy(lm.logits(batch.tokens), targets)]
        for x in (zero, zero + mean, resampled):
            columns.append(_cross_entropy(logits_with(lm, hook, batch, x), targets))
        return torch.stack(columns, -1)

    return Ablations(
        *_document_sums(losses, first_seqs(batches, num_seqs, batch_seqs), documents, 4)
    )


def splices(
    coder: Coder,
    lm: SplicedLM,
    batches: Iterable[Sequences],
    *,
    hook: str,
    documents: Int64[np.ndarray, " document"],
    num_seqs: int,
    batch_seqs: int,
    seed: int,
    reads: Iterable[Sequences] | None = None,
) -> Splices:
    """Return what the reconstructions do, beside errors of equal norm at random.

    `reads` are the same sequences at the hook that a transcoder reads; `hook` is the
    one at which its predictions are spliced in.
    """
    beside = None if reads is None else first_seqs(reads, num_seqs, batch_seqs)

    def losses(first: int, batch: Sequences) -> Float64[Tensor, "batch pos column"]:
        x_hat = _reconstruction(coder, batch, beside)
        drawn = [
            generator.standard_normal(batch.x.shape[1:], dtype=np.float32)
            for generator in _generators(seed, first, batch)
        ]
        noise = torch.from_numpy(np.stack(drawn)).to(batch.x)
        length = (batch.x - x_hat).norm(dim=-1, keepdim=True)
        noise *= length / noise.norm(dim=-1, keepdim=True)
        clean = lm.logits(batch.tokens)
        spliced = logits_with(lm, hook, batch, x_hat)
        columns = [
            _cross_entropy(spliced, batch.tokens[:, 1:]),
            divergence(clean, spliced),
            agreement(clean, spliced),
        ]
        del spliced  # logits are large: two of them at a time
        columns.append(divergence(clean, logits_with(lm, hook, batch, batch.x + noise)))
        return torch.stack(columns, -1)

    return Splices(
        *_document_sums(losses, first_seqs(batches, num_seqs, batch_seqs), documents, 4)
    )


def cross_entropy(
    coder: Coder,
    lm: SplicedLM,
    batches: Iterable[Sequences],
    *,
    hook: str,
    documents: Int64[np.ndarray, " document"],
    num_seqs: int,
    batch_seqs: int,
    reads: Iterable[Sequences] | None = None,
) -> float:
    """Return the mean cross-entropy in nats with the reconstructions spliced in.

    NaN where nothing is predicted from an unmasked token. `reads` are those of
    `splices`.
    """
    beside = None if reads is None else first_seqs(reads, num_seqs, batch_seqs)

    def losses(first: int, batch: Sequences) -> Float64[Tensor, "batch pos column"]:
        spliced = logits_with(lm, hook, batch, _reconstruction(coder, batch, beside))
        return _cross_entropy(spliced, batch.tokens[:, 1:])[..., None]

    num_tokens, total = _document_sums(
        losses, first_seqs(batches, num_seqs, batch_seqs), documents, 1
    )
    return float(total.sum() / num_tokens.sum()) if num_tokens.any() else math.nan


def _reconstruction(
    coder: Coder, batch: Sequences, beside: Iterator[Sequences] | None
) -> Float[Tensor, "batch pos d_in"]:
    """Return the reconstruction of a batch, from the next one beside it if any is."""
    x = batch.x if beside is None else next(beside).x
    flat = x.reshape(-1, x.shape[-1]).to(coder.W_dec.device)
    parts = torch.split(flat, coders.block_rows(len(coder.W_dec)))
    x_hat = torch.cat([coders.code(coder, part).x_hat for part in parts])
    return x_hat.reshape(batch.x.shape).to(batch.x.device)


def _generators(seed: int, first: int, batch: Sequences) -> list[np.random.Generator]:
    """Return one for each sequence, by its number alone: batches leave no trace."""
    numbers = range(first, first + len(batch.tokens))
    return [np.random.default_rng([seed, number]) for number in numbers]


def logits_with(
    lm: SplicedLM, hook: str, batch: Sequences, x_hat: Float[Tensor, "batch pos d_in"]
) -> Float[Tensor, "batch pos vocab"]:
    """Return the logits with `x_hat` in the place of unmasked activations."""
    kept = (batch.mask == 0)[..., None]
    return lm.logits_replaced(batch.tokens, hook, torch.where(kept, x_hat, batch.x))


def _cross_entropy(
    logits: Float[Tensor, "batch pos vocab"], targets: Int64[Tensor, "batch last"]
) -> Float64[Tensor, "batch last"]:
    # Here and below one sequence at a time: its logits stay in the processor's cache.
    return torch.stack(
        [
            (row[:-1].logsumexp(-1) - row[:-1].gather(1, target[:, None])[:, 0]).cpu()
            for row, target in zip(logits, targets.to(logits.device), strict=True)
        ]
    ).double()


def divergence(
    clean: Float[Tensor, "batch pos vocab"], other: Float[Tensor, "batch pos vocab"]
) -> Float64[Tensor, "batch last"]:
    """Return KL(clean | other) in nats at every position that predicts."""
    found = []
    for p_row, q_row in zip(clean[:, :-1], other[:, :-1], strict=True):
        totals = q_row.logsumexp(-1) - p_row.logsumexp(-1)
        found.append(((p_row.softmax(-1) * (p_row - q_row)).sum(-1) + totals).cpu())
    return torch.stack(found).double()


def agreement(
    clean: Float[Tensor, "batch pos vocab"], other: Float[Tensor, "batch pos vocab"]
) -> Float64[Tensor, "batch last"]:
    """Return 1 where both predict the same token, else 0."""
    agree = [
        (p_row.argmax(-1) == q_row.argmax(-1)).cpu()
        for p_row, q_row in zip(clean[:, :-1], other[:, :-1], strict=True)
    ]
    return torch.stack(agree).double()


def _document_sums(
    losses: Callable[[int, Sequences], Float64[Tensor, "batch last column"]],
    batches: Iterable[Sequences],
    documents: Int64[np.ndarray, " document"],
    num_columns: int,
) -> Float64[np.ndarray, "column document"]:
    """Return how many predictions each document makes, and sums of their losses."""
    sums, first = np.zeros((len(documents), 1 + num_columns)), 0
    for batch in batches:
        kept = batch.mask[:, :-1] == 0
        index = np.searchsorted(documents, batch.document[:, :-1][kept].numpy())
        np.add.at(sums[:, 0], index, 1.0)
        np.add.at(sums[:, 1:], index, losses(first, batch)[kept].numpy())
        first += len(batch.tokens)
    return sums.T


def first_seqs(
    batches: Iterable[Sequences], num_seqs: int, batch_seqs: int
) -> Iterator[Sequences]:
    """Yield the first sequences, at most `batch_seqs` at a time."""
    left = num_seqs
    for batch in batches:
        for start in range(0, min(left, len(batch.tokens)), batch_seqs):
            stop = min(start + batch_seqs, left, len(batch.tokens))
            yield Sequences(*(part[start:stop] for part in batch))
        left -= min(left, len(batch.tokens))
        if left == 0:
            return
