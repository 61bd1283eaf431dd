"""The tally: one pass over the held-out rows, and all that is summed up on the way."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from trilemma.metrics import distortion, rate
from trilemma.metrics.baseline import Baseline, Rows
from trilemma.metrics.coders import Coder
from trilemma.metrics.streaming import Batch, Measure, stream

NUM_BLOCKS = 20
"""Blocks of documents that the jackknife leaves out in turn."""
_PROBES = 8192
"""Most rows on which bin widths are tried."""


class DocumentSums(NamedTuple):
    """Sums over the rows of each document."""

    num_tokens: Float64[np.ndarray, " document"]
    squared_error: Float64[np.ndarray, " document"]
    squared_deviation: Float64[np.ndarray, " document"]
    cosine: Float64[np.ndarray, " document"]
    num_firings: Float64[np.ndarray, " document"]
    score: Float64[np.ndarray, " document"]
    """Sum of the scores of the latents that fired; 0 where they have none."""


class LatentSums(NamedTuple):
    """Sums over the rows for each latent."""

    num_fired: Int64[np.ndarray, "block d_sae"]
    """Firings in each block of documents."""
    sum_acts: Float64[np.ndarray, " d_sae"]
    max_acts: Float64[np.ndarray, " d_sae"]
    """Largest absolute activation; 0 for a silent latent."""
    mass: Float64[np.ndarray, "block d_sae label"]
    """Absolute activation over labels; no labels where none were asked for."""
    null_mass: Float64[np.ndarray, "permutation d_sae label"]
    """The same over permuted labels."""


class Sample(NamedTuple):
    """Codes of the first rows, to measure a rate on."""

    codes: rate.Codes
    probes: rate.Probes


@dataclass(frozen=True)
class Wanted:
    """What a pass collects beside the sums that every pass collects."""

    rate_rows: int | None
    """Keep the codes of this many first rows; None keeps none."""
    null_seed: int | None
    """Sum the mass over labels, the null's permuted by this seed; None does not."""
    score: Float64[np.ndarray, " d_sae"] | None
    """A number for each latent, to be summed over firings."""


@dataclass(frozen=True)
class Tally:
    """What one pass of a coder over the held-out rows leaves."""

    documents: DocumentSums
    latents: LatentSums
    sample: Sample | None


def sweep(
    coder: Coder,
    baseline: Baseline,
    batches: Iterable[Rows],
    *,
    wanted: Wanted,
    measures: Sequence[Measure] = (),
) -> Tally:
    """Return the sums over all rows, added in row order whatever the batches are.

    The pass shows its batches to `measures` too. Memory is one batch's dense code, the
    bounded sample of codes, and 8 bytes for each latent and label of each block and
    permutation.
    """
    tallying = _Tallying(baseline, coder, wanted)
    stream(coder, batches, [tallying, *measures])
    return tallying.tally()


class _Tallying:
    """The measure behind a tally."""

    def __init__(self, baseline: Baseline, coder: Coder, wanted: Wanted) -> None:
        d_sae = len(coder.W_dec)
        self._mean = baseline.mean.to(coder.W_dec.device)
        self._sums = _Sums(baseline, d_sae=d_sae, wanted=wanted)
        self._sampler = None
        if wanted.rate_rows is not None:
            num_rows = min(wanted.rate_rows, baseline.num_tokens)
            self._sampler = _Sampler(num_rows, d_sae=d_sae)

    def add(self, batch: Batch) -> None:
        errors = distortion.row_errors(batch.x, batch.x_hat, mean=self._mean)
        fired = _Fired(
            batch.row.cpu().numpy(),
            batch.latent.cpu().numpy(),
            batch.value.cpu().numpy(),
        )
        self._sums.add(batch.rows, errors, fired)
        if self._sampler is not None:
            error = batch.x - batch.x_hat
            self._sampler.add(batch.rows, errors, fired, error=error)

    def tally(self) -> Tally:
        sample = None if self._sampler is None else self._sampler.sample()
        return Tally(self._sums.documents, self._sums.latents, sample)


class _Fired(NamedTuple):
    """The nonzero entries of a batch's code, in row order."""

    row: Int64[np.ndarray, " entry"]
    latent: Int64[np.ndarray, " entry"]
    value: Float32[np.ndarray, " entry"]


class _Sums:
    """Sums that grow with the documents and the latents, not with the rows.

    `np.add.at` adds one entry after another, so batches leave no trace in the bits;
    with one flat index it takes numpy's fast path.
    """

    def __init__(self, baseline: Baseline, *, d_sae: int, wanted: Wanted) -> None:
        num_documents = len(baseline.documents)
        self.block = np.arange(num_documents) % NUM_BLOCKS
        self.score = wanted.score
        self.labels = np.zeros((0, len(baseline.labels)), dtype=np.int32)
        num_labels = 0
        if wanted.null_seed is not None:
            null = baseline.permuted_labels(seed=wanted.null_seed)
            self.labels = np.concatenate([baseline.labels.numpy()[None], null])
            num_labels = baseline.num_labels
        self.documents = DocumentSums(*np.zeros((6, num_documents)))
        self.latents = LatentSums(
            num_fired=np.zeros((NUM_BLOCKS, d_sae), dtype=np.int64),
            sum_acts=np.zeros(d_sae),
            max_acts=np.zeros(d_sae),
            mass=np.zeros((NUM_BLOCKS, d_sae, num_labels)),
            null_mass=np.zeros((max(0, len(self.labels) - 1), d_sae, num_labels)),
        )

    def add(self, rows: Rows, errors: distortion.RowErrors, fired: _Fired) -> None:
        of_document, documents, latents = rows.document, self.documents, self.latents
        np.add.at(documents.num_tokens, of_document, 1.0)
        np.add.at(documents.squared_error, of_document, _numpy(errors.squared_error))
        np.add.at(
            documents.squared_deviation, of_document, _numpy(errors.squared_deviation)
        )
        np.add.at(documents.cosine, of_document, _numpy(errors.cosine))

        document, latent = of_document[fired.row], fired.latent
        block, size = self.block[document], np.abs(fired.value.astype(np.float64))
        np.add.at(documents.num_firings, document, 1.0)
        if self.score is not None:
            np.add.at(documents.score, document, self.score[latent])
        d_sae = len(latents.sum_acts)
        place = block * d_sae + latent
        np.add.at(latents.num_fired.reshape(-1), place, 1)
        np.add.at(latents.sum_acts, latent, size)
        np.maximum.at(latents.max_acts, latent, size)
        num_labels = latents.mass.shape[2]
        for index, labels in enumerate(self.labels):
            label = labels[rows.position][fired.row]
            if index == 0:
                np.add.at(latents.mass.reshape(-1), place * num_labels + label, size)
            else:
                mass = latents.null_mass[index - 1].reshape(-1)
                np.add.at(mass, latent * num_labels + label, size)


class _Sampler:
    """The codes of the first rows, and the errors of some of these."""

    def __init__(self, num_rows: int, *, d_sae: int) -> None:
        self.num_rows, self.d_sae = num_rows, d_sae
        self.every = -(-num_rows // _PROBES)
        self.seen = 0
        self.document: list[Int64[np.ndarray, " row"]] = []
        self.fired: list[_Fired] = []
        self.probe: list[Int64[np.ndarray, " probe"]] = []
        self.error: list[Float[Tensor, "probe d_in"]] = []
        self.squared_deviation = 0.0

    def add(
        self,
        rows: Rows,
        errors: distortion.RowErrors,
        fired: _Fired,
        *,
        error: Float[Tensor, "row d_in"],
    ) -> None:
        taken = min(self.num_rows - self.seen, len(rows.document))
        if taken == 0:
            return
        stop = np.searchsorted(fired.row, taken)
        self.document.append(rows.document[:taken])
        self.fired.append(
            _Fired(
                fired.row[:stop] + self.seen, fired.latent[:stop], fired.value[:stop]
            )
        )
        probe = np.arange(-self.seen % self.every, taken, self.every)
        self.probe.append(probe + self.seen)
        self.error.append(error[torch.from_numpy(probe).to(error.device)])
        for deviation in _numpy(errors.squared_deviation)[probe]:
            self.squared_deviation += float(deviation)
        self.seen += taken

    def sample(self) -> Sample:
        codes = rate.Codes(
            document=np.concatenate(self.document),
            row=np.concatenate([part.row for part in self.fired]),
            latent=np.concatenate([part.latent for part in self.fired]),
            value=np.concatenate([part.value for part in self.fired]),
            d_sae=self.d_sae,
        )
        return Sample(
            codes,
            rate.Probes(
                row=np.concatenate(self.probe),
                error=torch.cat(self.error),
                squared_deviation=self.squared_deviation,
            ),
        )


def _numpy(values: Float64[Tensor, " row"]) -> Float64[np.ndarray, " row"]:
    return values.cpu().numpy()
