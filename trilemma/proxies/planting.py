"""Merges planted in a trained SAE: do measures rise with how many there are?

Nobody knows how far a trained SAE merges concepts already, but what is planted on top
is known. Conjunctive merges join latents that fire together, where they do; disjunctive
ones join latents at random.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from trilemma.metrics.streaming import Batch
from trilemma.proxies import merges
from trilemma.proxies.conditions import score, spearman
from trilemma.proxies.measures import MEASURES, Measure
from trilemma.proxies.merges import Kind, Pairs
from trilemma.proxies.worlds import Code, World

METRIC_VERSION = 1
_NUM_ROWS = 2048
_STEPS = 4
_LEAST_PAIRS = 4


class Seen(NamedTuple):
    """Spearman's correlation of a measure with the share of merged pairs."""

    measure: str
    conjunctive: float | None
    """None where it does not vary, is undefined, or fewer than four pairs co-fire."""
    disjunctive: float | None


class FirstRows:
    """The measure that keeps the code of the first rows, and their embeddings."""

    def __init__(self, *, embed: Callable[[Batch], Float[Tensor, "row width"]]) -> None:
        self._embed = embed
        self._left = _NUM_ROWS
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, batch: Batch) -> None:
        """Keep a batch's rows, while some are wanted."""
        taken = min(self._left, len(batch.x))
        if taken == 0:
            return
        seen, self._left = _NUM_ROWS - self._left, self._left - taken
        kept = batch.row < taken
        part = (
            torch.from_numpy(batch.rows.position[:taken]),
            batch.x[:taken],
            self._embed(batch)[:taken],
            batch.row[kept] + seen,
            batch.latent[kept],
            batch.value[kept],
        )
        self._parts.append(tuple(each.cpu() for each in part))

    def planted(
        self,
        W_dec: Float[Tensor, "d_sae d_in"],
        labels: Int32[Tensor, " split"],
        *,
        num_labels: int,
        num_latents: int,
        seed: int,
    ) -> tuple[Seen, ...]:
        """Return how measures of the kept rows follow planted merges; see `follow`.

        They are planted among the `num_latents` that fire most often in these rows,
        and the measures are taken over these.
        """
        position, x, embedding, row, latent, value = (
            torch.cat(parts) for parts in zip(*self._parts, strict=True)
        )
        chosen = _most_frequent(latent, len(W_dec), num_latents)
        column = torch.full((len(W_dec),), -1)
        column[chosen] = torch.arange(len(chosen))
        kept = column[latent] >= 0
        acts = torch.zeros(len(x), len(chosen))
        acts[row[kept], column[latent[kept]]] = value[kept]
        world = World(x, embedding, labels[position].numpy(), num_labels, None, seed)
        return follow(Code(W_dec[chosen].cpu().float(), acts), world)


def follow(code: Code, world: World) -> tuple[Seen, ...]:
    """Return how measures follow merges planted in a code.

    Those that need concepts or a full sample of firings are left out.
    """
    paths = (
        _path(code, that_co_fire(code), "conjunctive"),
        _path(code, _at_random(len(code.W_dec), world.seed), "disjunctive"),
    )
    return tuple(
        Seen(measure.name, *(_correlation(measure, path, world) for path in paths))
        for measure in MEASURES
        if not (measure.needs_concepts or measure.is_sampled)
    )


def _correlation(measure: Measure, path: list[Code], world: World) -> float | None:
    if not path:
        return None
    return spearman([score(measure, code, world) for code in path], range(len(path)))


def _path(code: Code, pairs: Pairs, kind: Kind) -> list[Code]:
    """Return the code with none to all of the pairs merged; nothing of too few."""
    if len(pairs) < _LEAST_PAIRS:
        return []
    counts = [step * len(pairs) // _STEPS for step in range(_STEPS + 1)]
    return [merges.merge(code, pairs[:count], kind) for count in counts]


def that_co_fire(code: Code) -> Pairs:
    """Return disjoint pairs of latents, those first that fire together most often."""
    fires = (code.acts != 0).double()
    together = (fires.T @ fires).triu(1)
    pairs, left = [], set(range(len(code.W_dec)))
    for place in together.flatten().argsort(descending=True, stable=True).tolist():
        one, other = divmod(place, len(code.W_dec))
        if together[one, other] == 0:
            break
        if one in left and other in left:
            pairs.append((one, other))
            left -= {one, other}
    return pairs


def _at_random(num_latents: int, seed: int) -> Pairs:
    """Return disjoint pairs of latents, dealt at random."""
    dealt = np.random.default_rng(seed).permutation(num_latents).tolist()
    return list(zip(dealt[::2], dealt[1::2], strict=False))


def _most_frequent(
    latent: Int64[Tensor, " entry"], d_sae: int, num: int
) -> Int64[Tensor, " chosen"]:
    """Return the latents that fire most often, none that never does."""
    count = torch.bincount(latent, minlength=d_sae)
    order = count.argsort(descending=True, stable=True)[:num]
    return order[count[order] > 0]
