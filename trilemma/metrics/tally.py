"""The tally: one pass over the held-out rows, and all that is summed up on the way."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from trilemma.metrics import rate
from trilemma.metrics.baseline import NUM_PERMUTATIONS, Baseline, Rows
from trilemma.metrics.coders import Coder
from trilemma.metrics.intervals import NUM_BLOCKS
from trilemma.metrics.streaming import Batch, Measure, stream
from trilemma.metrics.sums import add_at

_PROBES = 8192
"""Most rows on which bin widths are tried."""


class DocumentSums(NamedTuple):
    """Sums over the rows of each document."""

    num_tokens: Float64[np.ndarray, " document"]
    num_firings: Float64[np.ndarray, " document"]
    score: Float64[np.ndarray, " document"]
    """Sum of the scores of the latents that fired; 0 where they have none."""
    num_scored: Float64[np.ndarray, " document"]
    """Firings of latents that have a score."""


class LatentSums(NamedTuple):
    """Sums over the rows for each latent."""

    num_fired: Int64[np.ndarray, "block d_sae"]
    """Firings in each block of documents."""
    sum_acts: Float64[np.ndarray, " d_sae"]
    max_acts: Float64[np.ndarray, " d_sae"]
    """Largest absolute activation; 0 for a silent latent."""
    mass: Float64[np.ndarray, "block d_sae label"]
    """Absolute activation over labels."""
    null_mass: Float64[np.ndarray, "permutation d_sae label"]
    """The same over permuted labels."""


class Sample(NamedTuple):
    """Codes of the first rows, to measure a rate on."""

    codes: rate.Codes
    probes: rate.Probes


@dataclass(frozen=True)
class Wanted:
    """What a pass collects beside the sums that every pass collects."""

    rate_rows: int
    """Keep the codes of this many first rows."""
    null_seed: int
    """Permute the labels of the null by this seed."""
    score: Float64[np.ndarray, " d_sae"] | None
    """A number for each latent, to be summed over firings; NaN where it has none."""


@dataclass(frozen=True)
class Tally:
    """What one pass of a coder over the held-out rows leaves."""

    documents: DocumentSums
    latents: LatentSums
    num_with_l0: Int64[np.ndarray, " l0"]
    """Tokens on which none, one, two, ... latents fire; d_sae + 1 entries."""
    sample: Sample


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
        device = coder.W_dec.device
        self._sums = _Sums(baseline, d_sae=d_sae, device=device, wanted=wanted)
        num_rows = min(wanted.rate_rows, baseline.num_tokens)
        self._sampler = _Sampler(num_rows, d_sae=d_sae, mean=baseline.mean.to(device))

    def add(self, batch: Batch) -> None:
        self._sums.add(batch)
        self._sampler.add(batch)

    def tally(self) -> Tally:
        return Tally(
            self._sums.documents(),
            self._sums.latents(),
            self._sums.num_with_l0.cpu().numpy(),
            self._sampler.sample(),
        )


class _Sums:
    """Sums that grow with the documents and the latents, not with the rows."""

    def __init__(
        self, baseline: Baseline, *, d_sae: int, device: torch.device, wanted: Wanted
    ) -> None:
        self.score = None
        if wanted.score is not None:
            score = torch.from_numpy(wanted.score)
            counts = score.isfinite().double()
            self.score = torch.stack([score.nan_to_num(), counts], dim=1).to(device)
        self.num_labels = baseline.num_labels
        null = baseline.permuted_labels(seed=wanted.null_seed)
        own = baseline.labels.numpy().astype(null.dtype)
        self.labels = torch.from_numpy(np.stack([own, *null])).to(device)

        def zeros(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.of_documents = zeros(len(baseline.documents), len(DocumentSums._fields))
        self.num_with_l0 = zeros(d_sae + 1, dtype=torch.int64)
        self.num_fired = zeros(NUM_BLOCKS * d_sae, dtype=torch.int64)
        self.sum_acts, self.max_acts = zeros(d_sae), zeros(d_sae)
        self.mass = zeros(NUM_BLOCKS * d_sae * self.num_labels)
        self.null_mass = zeros(NUM_PERMUTATIONS * d_sae * self.num_labels)

    def add(self, batch: Batch) -> None:
        latent, size, d_sae = batch.latent, batch.size, len(self.sum_acts)
        score = torch.zeros(len(batch.x), 2, dtype=torch.float64, device=latent.device)
        if self.score is not None:
            add_at(score, batch.row, self.score[latent])
        add_at(self.num_with_l0, batch.num_firings, torch.ones_like(batch.num_firings))
        num_firings = batch.num_firings.double()
        columns = (torch.ones_like(num_firings), num_firings, *score.t())
        add_at(self.of_documents, batch.document, torch.stack(columns, dim=1))

        block = batch.document % NUM_BLOCKS
        place = block[batch.row] * d_sae + latent
        add_at(self.num_fired, place, torch.ones_like(place))
        add_at(self.sum_acts, latent, size)
        self.max_acts.scatter_reduce_(0, latent, size, "amax")
        label, *null = self.labels[:, batch.position][:, batch.row].long()
        add_at(self.mass, place * self.num_labels + label, size)
        for index, dealt in enumerate(null):
            here = (index * d_sae + latent) * self.num_labels + dealt
            add_at(self.null_mass, here, size)

    def documents(self) -> DocumentSums:
        return DocumentSums(*self.of_documents.t().cpu().numpy())

    def latents(self) -> LatentSums:
        d_sae = len(self.sum_acts)
        return LatentSums(
            num_fired=self.num_fired.view(NUM_BLOCKS, d_sae).cpu().numpy(),
            sum_acts=self.sum_acts.cpu().numpy(),
            max_acts=self.max_acts.cpu().numpy(),
            mass=self.mass.view(NUM_BLOCKS, d_sae, -1).cpu().numpy(),
            null_mass=self.null_mass.view(NUM_PERMUTATIONS, d_sae, -1).cpu().numpy(),
        )


class _Sampler:
    """The codes of the first rows, and the errors of some of these."""

    def __init__(
        self, num_rows: int, *, d_sae: int, mean: Float64[Tensor, " d_in"]
    ) -> None:
        self.num_rows, self.d_sae, self.mean = num_rows, d_sae, mean
        self.every = -(-num_rows // _PROBES)
        self.seen = 0
        self.document: list[Int64[np.ndarray, " row"]] = []
        self.fired: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.probe: list[Int64[np.ndarray, " probe"]] = []
        self.error: list[Float[Tensor, "probe d_in"]] = []
        self.squared_deviation = 0.0

    def add(self, batch: Batch) -> None:
        taken = min(self.num_rows - self.seen, len(batch.x))
        if taken == 0:
            return
        stop = int(torch.searchsorted(batch.row, taken))
        self.document.append(batch.rows.document[:taken])
        row, latent, value = (
            part[:stop].cpu().numpy() for part in (batch.row, batch.latent, batch.value)
        )
        self.fired.append((row + self.seen, latent, value))
        probe = np.arange(-self.seen % self.every, taken, self.every)
        self.probe.append(probe + self.seen)
        here = torch.from_numpy(probe).to(batch.x.device)
        x = batch.x[here]
        self.error.append(x - batch.x_hat[here])
        for deviation in (x.double() - self.mean).square().sum(1).tolist():
            self.squared_deviation += deviation
        self.seen += taken

    def sample(self) -> Sample:
        row, latent, value = (
            np.concatenate(parts) for parts in zip(*self.fired, strict=True)
        )
        codes = rate.Codes(
            document=np.concatenate(self.document),
            row=row,
            latent=latent,
            value=value,
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
