"""Partners: the latents with which one fires so often that merging saves bits."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64
from scipy import sparse

from trilemma import matching
from trilemma.theory import splitting

_BLOCK_PAIRS = 1 << 20
"""Most pairs of latents whose counts are held at once (about 50 MiB)."""
_LEAST_ERRORS = 3
"""Standard errors by which a pair must meet more often than by chance: ten times."""
_NUM_PARTNERS = 8
"""Partners of a latent among which the matching chooses."""


class Firings(NamedTuple):
    """Which latents fire on which rows."""

    row: Int32[np.ndarray, " entry"]
    latent: Int32[np.ndarray, " entry"]


class Pairs(NamedTuple):
    """A partner for each latent; one without a partner is its own."""

    best: Int64[np.ndarray, " d_sae"]
    """The partner with which merging saves most."""
    matched: Int64[np.ndarray, " d_sae"]
    """The partner in the matching that saves most in all."""
    is_heaviest: bool
    """Whether no matching saves more; else it was chosen greedily in part."""


def chosen(firings: Firings, *, num_rows: int, d_sae: int) -> Pairs:
    """Return the pairs whose merging saves most over some rows of a code.

    A latent has one partner in the matching, chosen among the few best of each.
    """
    best = np.arange(d_sae)
    pairs, weights = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)]
    for found in _candidates(firings, num_rows=num_rows, d_sae=d_sae):
        order = np.lexsort((found.partner, -found.saved, found.latent))
        latent, partner, saved = (part[order] for part in found)
        rank = np.arange(len(latent)) - np.searchsorted(latent, latent)
        best[latent[rank == 0]] = partner[rank == 0]
        kept = rank < _NUM_PARTNERS
        pairs.append(np.sort(np.stack([latent, partner], 1)[kept], 1))
        weights.append(saved[kept])
    distinct, index = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    found_set = matching.heaviest(distinct, np.concatenate(weights)[index])
    first, second = distinct[found_set.taken].T
    matched = np.arange(d_sae)
    matched[first], matched[second] = second, first
    return Pairs(best, matched, found_set.is_heaviest)


class _Candidates(NamedTuple):
    """Pairs with which merging saves bits."""

    latent: Int64[np.ndarray, " pair"]
    partner: Int64[np.ndarray, " pair"]
    saved: Float64[np.ndarray, " pair"]
    """Bits a token."""


def _candidates(
    firings: Firings, *, num_rows: int, d_sae: int
) -> Iterator[_Candidates]:
    """Yield all such pairs, both ways round, a block of latents at a time."""
    ones = np.ones(len(firings.row), dtype=np.int32)
    shape = (num_rows, d_sae)
    fires = sparse.csr_array((ones, (firings.row, firings.latent)), shape=shape)
    by_latent = fires.T.tocsr()
    share = np.diff(by_latent.indptr) / max(num_rows, 1)
    size = max(1, _BLOCK_PAIRS // d_sae)
    for start in range(0, d_sae, size):
        counts = (by_latent[start : start + size] @ fires).tocoo()
        latent = counts.row.astype(np.int64) + start
        partner, num_met = counts.col.astype(np.int64), counts.data
        # Pairs that meet less often than by chance never save anything. Those that
        # meet a few times by chance are most of all pairs, and seem to.
        beyond = num_met - num_rows * share[latent] * share[partner]
        sure = (latent != partner) & (beyond > _LEAST_ERRORS * np.sqrt(num_met))
        latent, partner, joint = latent[sure], partner[sure], num_met[sure] / num_rows
        saved = splitting.saved_bits(share[latent], share[partner], joint)
        useful = saved > 0
        yield _Candidates(latent[useful], partner[useful], saved[useful])
