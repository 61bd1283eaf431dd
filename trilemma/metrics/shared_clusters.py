"""Which clusters occur together in the text, and which latents merge them.

The pairs behind `co_occurrence`, one by one: how much more often than chance both
clusters occur in one window, how much more often than chance they share a latent, and
the latent of which that is most. Proposed here.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from trilemma.metrics import co_occurrence
from trilemma.metrics.co_occurrence import Counts

_MOST_ROWS = 1 << 20
"""Rows, evenly spread, whose tokens are counted."""


class SharedPair(NamedTuple):
    """Two clusters, and the latent that holds most of what they share."""

    first: int
    second: int
    together: float
    """Lift of both in one window: 1 is chance."""
    sharing: float
    """Lift of both in one latent: 1 is chance."""
    latent: int
    latent_share: float
    """Share of the sum behind `sharing` that is this latent's."""
    first_share: float
    """Share of the latent's activation that lies on the first cluster."""
    second_share: float


def pairs(
    counts: Counts,
    *,
    mass: Float64[np.ndarray, "block d_sae label"],
    num_fired: Int64[np.ndarray, "block d_sae"],
    num: int,
) -> tuple[SharedPair, ...]:
    """Return the pairs that occur together most beyond chance, at most `num`."""
    parts = (*counts, mass, num_fired)
    found = co_occurrence.lifts(*(part.sum(0) for part in parts))
    first, second = np.nonzero(np.triu(co_occurrence.are_defined(found), 1))
    order = np.argsort(-found.together[first, second], kind="stable")[:num]
    total, fired = mass.sum(0), num_fired.sum(0)
    of_latent = total.sum(1, keepdims=True)
    share = total / np.where(of_latent > 0, of_latent, 1)
    chosen = []
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        held = fired * share[:, one] * share[:, other]
        latent = int(held.argmax())
        if held[latent] > 0:
            chosen.append(
                SharedPair(
                    one,
                    other,
                    float(found.together[one, other]),
                    float(found.sharing[one, other]),
                    latent,
                    float(held[latent] / held.sum()),
                    float(share[latent, one]),
                    float(share[latent, other]),
                )
            )
    return tuple(chosen)


def telling_tokens(
    tokens: Int64[Tensor, " row"],
    labels: Int32[Tensor, " row"],
    *,
    num_labels: int,
    num: int,
) -> Int64[np.ndarray, "label token"]:
    """Return the tokens that tell most of each label, -1 where it has too few.

    Those of largest `n_ct ln(n_ct N / (n_c n_t))`: what a token adds to the mutual
    information of tokens and labels. Rows labelled -1 do not count.
    """
    step = max(1, len(labels) // _MOST_ROWS)
    some, label = tokens.numpy()[::step], labels.numpy()[::step].astype(np.int64)
    token, label = some[label >= 0], label[label >= 0]
    num_tokens = int(token.max(initial=-1)) + 1
    place, met = np.unique(label * num_tokens + token, return_counts=True)
    of_label = np.bincount(label, minlength=num_labels)
    of_token = np.bincount(token, minlength=num_tokens)
    one, other = place // max(num_tokens, 1), place % max(num_tokens, 1)
    expected = of_label[one] * (of_token[other] / max(len(token), 1))
    told = met * np.log(met / expected)
    order = np.lexsort((-told, one))
    rank = np.arange(len(order)) - np.searchsorted(one[order], one[order])
    kept = order[(rank < num) & (told[order] > 0)]
    found = np.full((num_labels, num), -1)
    found[one[kept], np.arange(len(kept)) - np.searchsorted(one[kept], one[kept])] = (
        other[kept]
    )
    return found
