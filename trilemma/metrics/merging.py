"""Merging: would a latent for two that fire together save bits?

Where latents A and B often fire on the same tokens, three latents "only A", "only B"
and "both" can cost fewer bits than the two. `trilemma.theory.splitting` has the codes
of Ayonrinde, Pearce and Sharkey 2024, and the boundary at a pointwise mutual
information of about 1 nat. What is made of them for a whole SAE is proposed here. How
strongly latents fire is not coded.

The best of thousands of partners looks better than it is. So pairs are chosen on every
other document, and measured on those between.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from trilemma.metrics import intervals, partners
from trilemma.metrics.intervals import NUM_BLOCKS
from trilemma.metrics.partners import Firings, Pairs
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch
from trilemma.theory import splitting

METRIC_VERSION = 1

_MOST_ROWS = 1 << 17
"""Tokens among which those on which pairs are chosen are sought, the first."""
_MOST_PAIRS = 1 << 27
"""Most pairs of firings, summed over those tokens: a few seconds of counting."""


class Counts(NamedTuple):
    """How often latents fire, and fire with a partner, in each block of documents."""

    num_tokens: Int64[np.ndarray, " block"]
    num_fired: Int64[np.ndarray, "block d_sae"]
    with_best: Int64[np.ndarray, "block d_sae"]
    with_matched: Int64[np.ndarray, "block d_sae"]


class Merging:
    """Chooses pairs on the first tokens of some documents, and counts on others.

    Documents of even numbers choose, the others are in blocks of their own: those of a
    measure of all documents would be empty by halves. Memory is the codes of the first
    tokens, and a few numbers for each latent in each block.
    """

    def __init__(self, *, d_sae: int, device: torch.device) -> None:
        self._d_sae, self._device = d_sae, device
        self._rows_left, self._pairs_left = _MOST_ROWS, _MOST_PAIRS
        self._num_rows = 0
        self._codes: list[Firings] = []
        self._waiting: list[_Rows] = []
        self._pairs: Pairs | None = None
        self._partners: list[Int64[Tensor, " d_sae"]] = []
        self._num_tokens = torch.zeros(NUM_BLOCKS, dtype=torch.int64, device=device)
        self._counts = torch.zeros(
            (3, NUM_BLOCKS * d_sae), dtype=torch.int64, device=device
        )

    def add(self, batch: Batch) -> None:
        """Take a batch into the choice, or into the counts."""
        rows = _Rows(batch.rows.document, batch.row, batch.latent)
        taken = self._take(rows) if self._pairs is None else 0
        if taken < len(rows.document):
            if self._pairs is None:
                self._choose()
            self._count(rows.after(taken))

    def pairs(self) -> Pairs:
        """Return the pairs that were chosen."""
        if self._pairs is None:
            self._choose()
        assert self._pairs is not None
        return self._pairs

    def counts(self) -> Counts:
        """Return what was counted on the other documents."""
        if self._pairs is None:
            self._choose()
        per_block = self._counts.reshape(3, NUM_BLOCKS, self._d_sae).cpu().numpy()
        return Counts(self._num_tokens.cpu().numpy(), *per_block)

    def _take(self, rows: "_Rows") -> int:
        """Keep rows, those that choose and those that wait, as many as are left."""
        chooses = rows.document % 2 == 0
        l0 = torch.bincount(rows.row, minlength=len(chooses)).cpu().numpy()
        num_pairs = np.where(chooses, l0**2, 0).cumsum()
        taken = min(int((num_pairs <= self._pairs_left).sum()), self._rows_left)
        first = rows.before(taken)
        row, latent = (each.int().cpu() for each in first[1:])
        place = self._num_rows + np.cumsum(chooses, dtype=np.int32) - 1
        used = torch.from_numpy(chooses)[row]
        self._codes.append(
            Firings(row=place[row[used].numpy()], latent=latent[used].numpy())
        )
        self._waiting.append(_Rows(first.document, row[~used], latent[~used]))
        self._num_rows += int(chooses[:taken].sum())
        self._rows_left -= taken
        self._pairs_left -= int(num_pairs[taken - 1]) if taken else 0
        return taken

    def _choose(self) -> None:
        """Choose the pairs, and count them in the rows that wait."""
        found = (np.concatenate(parts) for parts in zip(*self._codes, strict=True))
        self._codes.clear()
        self._pairs = partners.chosen(
            Firings(*found), num_rows=self._num_rows, d_sae=self._d_sae
        )
        self._partners = [torch.from_numpy(p).to(self._device) for p in self._pairs[:2]]
        for rows in self._waiting:
            self._count(rows)
        self._waiting.clear()

    def _count(self, rows: "_Rows") -> None:
        counted = torch.from_numpy(rows.document % 2 == 1).to(self._device)
        block = torch.from_numpy(rows.document // 2 % NUM_BLOCKS).to(self._device)
        self._num_tokens += torch.bincount(block[counted], minlength=NUM_BLOCKS)

        row, latent = (each.to(self._device, torch.int64) for each in rows[1:])
        used = counted[row]
        row, latent = row[used], latent[used]
        place = block[row] * self._d_sae + latent
        # Entries come row by row and latent by latent, so these keys increase.
        key = row * self._d_sae + latent
        fires = [torch.ones(len(row), dtype=torch.bool, device=self._device)]
        for partner in self._partners:
            wanted = row * self._d_sae + partner[latent]
            found = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
            fires.append(key[found] == wanted)
        size = self._counts.shape[1]
        self._counts += torch.stack(
            [torch.bincount(place[it], minlength=size) for it in fires]
        )


class _Rows(NamedTuple):
    """Rows in order: the document of each, and the entries of their codes."""

    document: Int64[np.ndarray, " row"]
    row: Int[Tensor, " entry"]
    latent: Int[Tensor, " entry"]

    def before(self, num: int) -> "_Rows":
        stop = int(torch.searchsorted(self.row, num))
        return _Rows(self.document[:num], self.row[:stop], self.latent[:stop])

    def after(self, num: int) -> "_Rows":
        start = int(torch.searchsorted(self.row, num))
        return _Rows(self.document[num:], self.row[start:] - num, self.latent[start:])


def columns(pairs: Pairs, counts: Counts) -> dict[str, Float64[np.ndarray, " d_sae"]]:
    """Return for each latent its best partner, their PMI, and what merging saves."""
    paired = pairs.best != np.arange(len(pairs.best))
    num_tokens = max(int(counts.num_tokens.sum()), 1)
    share = counts.num_fired.sum(0) / num_tokens
    joint = counts.with_best.sum(0) / num_tokens
    together = paired & (joint > 0)
    pmi = np.full(len(joint), np.nan)
    pmi[together] = splitting.pmi_nats(
        share[together], share[pairs.best[together]], joint[together]
    )
    measured = paired & (counts.num_tokens.sum() > 0)
    saved = splitting.saved_bits(share, share[pairs.best], joint)
    return {
        "partner": np.where(paired, pairs.best, np.nan),
        "partner_pmi": pmi,
        "partner_saved_bits": np.where(measured, saved, np.nan),
    }


def scalars(pairs: Pairs, counts: Counts) -> dict[str, Scalar]:
    """Return `mergeable_fraction` and `merging_saved_bits`."""
    fired, num_tokens = counts.num_fired.sum(0), int(counts.num_tokens.sum())
    saved = columns(pairs, counts)["partner_saved_bits"]
    share, bits, reason = None, intervals.UNDEFINED, None
    if num_tokens == 0:
        reason = "no document was left to measure pairs on"
    elif fired.sum() == 0:
        reason = "no latent fired"
    else:
        share = float((saved[fired > 0] > 0).mean())
        bits = _matched_bits(pairs, counts)
    matched = "a maximum-weight matching"
    if not pairs.is_heaviest:
        matched = "a matching, greedy among many connected pairs"
    where = "pairs chosen on half the documents, measured on the others"
    return {
        "mergeable_fraction": Scalar(
            share,
            None,
            None,
            n=int((fired > 0).sum()),
            unit="1",
            method=f"exact; share of latents that fired; {where}",
            metric_version=METRIC_VERSION,
            seed=None,
            reason=reason,
        ),
        "merging_saved_bits": Scalar(
            *bits,
            n=num_tokens,
            unit="bits/token",
            method=f"DL_2 - DL_3, summed over {matched}; {where}; "
            f"jackknife over up to {NUM_BLOCKS} blocks of these",
            metric_version=METRIC_VERSION,
            seed=None,
            reason=reason,
        ),
    }


def _matched_bits(pairs: Pairs, counts: Counts) -> intervals.Interval:
    """Return the bits that the matching saves; the pairs are held fixed."""
    first = np.flatnonzero(pairs.matched > np.arange(len(pairs.matched)))
    second = pairs.matched[first]

    def bits(
        num_tokens: Int64[np.ndarray, "*block"],
        num_fired: Int64[np.ndarray, "*block d_sae"],
        together: Int64[np.ndarray, "*block d_sae"],
    ) -> Float64[np.ndarray, "*block"]:
        share = num_fired / num_tokens[..., None]
        joint = together[..., first] / num_tokens[..., None]
        saved: Float64[np.ndarray, "*block"] = splitting.saved_bits(
            share[..., first], share[..., second], joint
        ).sum(-1)
        return saved

    whole = (
        counts.num_tokens.sum(0, keepdims=True),
        counts.num_fired.sum(0, keepdims=True),
        counts.with_matched.sum(0, keepdims=True),
    )
    parts = (counts.num_tokens, counts.num_fired, counts.with_matched)
    out = [total - part for total, part in zip(whole, parts, strict=True)]
    used: Bool[np.ndarray, " block"] = (counts.num_tokens > 0) & (out[0] > 0)
    return intervals.jackknife(
        float(bits(*whole)[0]),
        bits(*(rows[used] for rows in out)),
        counts.num_tokens[used],
    )
