"""Splitting between dictionaries: which latents of a wide SAE a narrow one's became.

A latent of the wide SAE descends from the narrow latent of nearest direction, if that
is near (cosine at least 1/2) and fires on at least half of the tokens on which the
wide one fires. That wide SAEs split latents is Bricken et al. (2023, Towards
Monosemanticity); this way to count it is proposed here.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from trilemma.config import Member
from trilemma.metrics.baseline import Rows
from trilemma.metrics.coders import Coder
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Batch, stream

METRIC_VERSION = 1
LEAST_COSINE = 0.5
LEAST_SHARE = 0.5
_BLOCK = 4096


class Splits(NamedTuple):
    """Where each latent of the wide SAE comes from."""

    parent: Int64[np.ndarray, " d_wide"]
    """The narrow latent of nearest direction."""
    cosine: Float64[np.ndarray, " d_wide"]
    share: Float64[np.ndarray, " d_wide"]
    """Share of its firings at which the narrow latent fires too; NaN if silent."""
    num_fired: Int64[np.ndarray, " d_wide"]
    num_fired_narrow: Int64[np.ndarray, " d_narrow"]
    num_tokens: int

    @property
    def descends(self) -> Bool[np.ndarray, " d_wide"]:
        """Return which wide latents descend from their nearest narrow one."""
        near = self.cosine >= LEAST_COSINE
        descends: Bool[np.ndarray, " d_wide"] = near & (self.share >= LEAST_SHARE)
        return descends

    @property
    def num_children(self) -> Int64[np.ndarray, " d_narrow"]:
        """Return how many latents each narrow one became."""
        parents = self.parent[self.descends]
        return np.bincount(parents, minlength=len(self.num_fired_narrow))

    def children(self, narrow: int) -> Int64[np.ndarray, " child"]:
        """Return the wide latents that descend from a narrow one, nearest first."""
        found = np.flatnonzero(self.descends & (self.parent == narrow))
        return found[np.argsort(-self.cosine[found], kind="stable")]

    def most_split(self, num: int) -> list[int]:
        """Return the narrow latents of most children, at least two, at most `num`."""
        count = self.num_children
        order = np.argsort(-count, kind="stable")[:num]
        return [int(latent) for latent in order if count[latent] > 1]

    def columns(self) -> dict[str, Shaped[np.ndarray, " d_wide"]]:
        """Return one row for each wide latent; `parent` is its nearest narrow one."""
        return {
            "latent": np.arange(len(self.parent)),
            "parent": self.parent,
            "cosine": self.cosine,
            "share": self.share,
            "descends": self.descends,
            "num_fired": self.num_fired,
        }


def couples(
    family: Sequence[Member], widths: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return the pairs (narrow, wide) of SAEs at one hook that are worth a comparison.

    For each SAE of known width, the next narrower one that differs in the fewest other
    settings; the first of these, in the family's order.
    """
    settings = {
        member.name: member.config.model_dump()
        for member in family
        if member.name in widths
    }
    found = []
    for wide, own in settings.items():
        narrower = [name for name in settings if widths[name] < widths[wide]]
        if narrower:
            next_width = max(widths[name] for name in narrower)
            found.append(
                (
                    min(
                        (name for name in narrower if widths[name] == next_width),
                        key=lambda name: _num_different(settings[name], own),
                    ),
                    wide,
                )
            )
    return found


@torch.inference_mode()
def splits(narrow: Coder, wide: Coder, batches: Iterable[Rows]) -> Splits:
    """Return where the latents of a wide SAE come from, over rows that both read.

    Both have the same hook. Memory is a batch's dense codes and a few numbers a
    latent, for only the nearest narrow latent is tried.
    """
    counts = _CoFirings(narrow, wide)
    stream(wide, batches, [counts])
    return counts.splits()


def scalars(found: Splits) -> dict[str, Scalar]:
    """Return what became of the narrow SAE's live latents, and what is new."""
    live = found.num_fired_narrow > 0
    children = found.num_children[live]
    new = ~found.descends[found.num_fired > 0]
    rule = f"cosine >= {LEAST_COSINE:g}, share of firings >= {LEAST_SHARE:g}"

    def scalar(values: np.ndarray, unit: str, method: str, of: str) -> Scalar:
        return Scalar(
            float(values.mean()) if len(values) else None,
            None,
            None,
            n=len(values),
            unit=unit,
            method=f"{method}; {rule}; exact over {found.num_tokens:,} tokens",
            metric_version=METRIC_VERSION,
            seed=None,
            reason=None if len(values) else f"no latent of the {of} SAE fired",
        )

    return {
        "children": scalar(
            children, "latents", "mean over live narrow latents", "narrow"
        ),
        "split_fraction": scalar(
            children > 1, "1", "live narrow latents of two children or more", "narrow"
        ),
        "lost_fraction": scalar(
            children == 0, "1", "live narrow latents without a child", "narrow"
        ),
        "new_fraction": scalar(new, "1", "live wide latents without a parent", "wide"),
    }


class _CoFirings:
    """How often wide latents fire, and their nearest narrow ones with them."""

    def __init__(self, narrow: Coder, wide: Coder) -> None:
        device = wide.W_dec.device
        self._narrow = narrow
        self.cosine, self.parent = _nearest(wide.W_dec, narrow.W_dec.to(device))
        zeros = torch.zeros_like(self.parent)
        self.num_fired, self.together = zeros, zeros.clone()
        self.num_fired_narrow = zeros.new_zeros(len(narrow.W_dec))
        self.num_tokens = 0

    def add(self, batch: Batch) -> None:
        fires = self._narrow.encode(batch.x) != 0
        joins = fires[batch.row, self.parent[batch.latent]]
        ones = torch.ones_like(batch.latent)
        self.num_fired.index_add_(0, batch.latent, ones)
        self.together.index_add_(0, batch.latent, joins.long())
        self.num_fired_narrow += fires.sum(0)
        self.num_tokens += len(batch.x)

    def splits(self) -> Splits:
        fired = self.num_fired.double()
        share = self.together / fired.where(fired > 0, torch.nan)
        return Splits(
            parent=self.parent.cpu().numpy(),
            cosine=self.cosine.cpu().numpy(),
            share=share.cpu().numpy(),
            num_fired=self.num_fired.cpu().numpy(),
            num_fired_narrow=self.num_fired_narrow.cpu().numpy(),
            num_tokens=self.num_tokens,
        )


def _num_different(one: Mapping[str, object], other: Mapping[str, object]) -> int:
    return sum(
        one.get(key) != other.get(key)
        for key in one.keys() | other.keys()
        if key not in ("d_sae", "name")
    )


def _nearest(
    wide: Float[Tensor, "d_wide d_in"], narrow: Float[Tensor, "d_narrow d_in"]
) -> tuple[Float64[Tensor, " d_wide"], Int64[Tensor, " d_wide"]]:
    """Return the largest cosine of each row with rows of another, and where it is."""
    theirs = functional.normalize(narrow, dim=1).T
    found = [
        (functional.normalize(rows, dim=1) @ theirs).max(1)
        for rows in torch.split(wide, _BLOCK)
    ]
    return (
        torch.cat([each.values for each in found]).double(),
        torch.cat([each.indices for each in found]),
    )
