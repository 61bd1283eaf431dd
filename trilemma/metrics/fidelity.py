"""Fidelity: what the LM's predictions lose when a reconstruction is spliced in."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from trilemma.metrics.coders import Coder
from trilemma.sequences import Sequences

METRIC_VERSION = 1
LEAST_CE_GAP = 1e-3
"""Nats per token that an ablation must cost before a share of it means anything."""

CLEAN, ZERO, MEAN = range(3)
"""Columns of the sums that `ablations` returns."""
CE, KL, TOP1_AGREE = range(3)
"""Columns of the sums that `splices` returns."""


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


class DocumentLosses(NamedTuple):
    """Sums of per-token losses over each document."""

    num_tokens: Float64[np.ndarray, " document"]
    """Predictions made from unmasked tokens."""
    sums: Float64[np.ndarray, "document column"]


def ablations(
    lm: SplicedLM,
    batches: Iterable[Sequences],
    *,
    hook: str,
    mean: Float[Tensor, " d_in"],
    documents: Int64[np.ndarray, " document"],
    num_seqs: int,
    batch_seqs: int,
) -> DocumentLosses:
    """Return cross-entropies in nats: clean, hook zeroed, hook at the dataset's mean.

    Only unmasked tokens are replaced, and only predictions from them count.
    """

    def losses(batch: Sequences) -> Float64[Tensor, "batch pos column"]:
        zero = torch.zeros_like(batch.x)
        targets = batch.tokens[:, 1:]
        return torch.stack(
            [
                _cross_entropy(lm.logits(batch.tokens), targets),
                _cross_entropy(_spliced(lm, hook, batch, zero), targets),
                _cross_entropy(_spliced(lm, hook, batch, zero + mean), targets),
            ],
            dim=-1,
        )

    return _document_losses(
        losses, _first(batches, num_seqs, batch_seqs), documents, num_columns=3
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
) -> DocumentLosses:
    """Return cross-entropy and KL(clean | spliced) in nats, and top-1 agreement."""
    device = coder.W_dec.device

    def losses(batch: Sequences) -> Float64[Tensor, "batch pos column"]:
        flat = batch.x.reshape(-1, batch.x.shape[-1]).to(device)
        x_hat = coder.decode(coder.encode(flat)).to(batch.x.device)
        logits = _spliced(lm, hook, batch, x_hat.reshape(batch.x.shape))
        return _comparison(lm.logits(batch.tokens), logits, batch.tokens[:, 1:])

    return _document_losses(
        losses, _first(batches, num_seqs, batch_seqs), documents, num_columns=3
    )


def _spliced(
    lm: SplicedLM, hook: str, batch: Sequences, x_hat: Float[Tensor, "batch pos d_in"]
) -> Float[Tensor, "batch pos vocab"]:
    kept = (batch.mask == 0)[..., None]
    return lm.logits_replaced(batch.tokens, hook, torch.where(kept, x_hat, batch.x))


def _cross_entropy(
    logits: Float[Tensor, "batch pos vocab"], targets: Int64[Tensor, "batch last"]
) -> Float64[Tensor, "batch last"]:
    # One sequence at a time: its logits stay in the processor's cache.
    return torch.stack(
        [
            (row[:-1].logsumexp(-1) - row[:-1].gather(1, target[:, None])[:, 0]).cpu()
            for row, target in zip(logits, targets.to(logits.device), strict=True)
        ]
    ).double()


def _comparison(
    clean: Float[Tensor, "batch pos vocab"],
    other: Float[Tensor, "batch pos vocab"],
    targets: Int64[Tensor, "batch last"],
) -> Float64[Tensor, "batch last column"]:
    rows = []
    for p_row, q_row, target in zip(
        clean[:, :-1], other[:, :-1], targets.to(other.device), strict=True
    ):
        p_total, q_total = p_row.logsumexp(-1), q_row.logsumexp(-1)
        ce = q_total - q_row.gather(1, target[:, None])[:, 0]
        kl = (p_row.softmax(-1) * (p_row - q_row)).sum(-1) - p_total + q_total
        agree = p_row.argmax(-1) == q_row.argmax(-1)
        rows.append(torch.stack([ce, kl, agree], dim=-1).cpu())
    return torch.stack(rows).double()


def _document_losses(
    losses: Callable[[Sequences], Float64[Tensor, "batch last column"]],
    batches: Iterable[Sequences],
    documents: Int64[np.ndarray, " document"],
    *,
    num_columns: int,
) -> DocumentLosses:
    num_tokens = np.zeros(len(documents))
    sums = np.zeros((len(documents), num_columns))
    for batch in batches:
        kept = batch.mask[:, :-1] == 0
        index = np.searchsorted(documents, batch.document[:, :-1][kept].numpy())
        np.add.at(num_tokens, index, 1.0)
        np.add.at(sums, index, losses(batch)[kept].numpy())
    return DocumentLosses(num_tokens, sums)


def _first(
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
