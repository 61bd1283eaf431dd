"""Independent additivity: does ablating latents together do what each does alone?

An SAE's explanation of an activation is a sum over latents, and description lengths add
up only if the parts do (Ayonrinde, Pearce and Sharkey 2024). Downstream of the hook the
LM is not linear; how far effects on its logits fail to add up is measured here. The
measure is proposed here.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from trilemma.config.stages import Evaluation
from trilemma.metrics import intervals
from trilemma.metrics.coders import Coder
from trilemma.metrics.fidelity import SplicedLM, first_seqs
from trilemma.metrics.scalar import Scalar
from trilemma.sequences import Sequences

METRIC_VERSION = 1
_POSITIONS = 4
"""Positions of a sequence at which latents are ablated."""


class Gaps(NamedTuple):
    """Squared norms of changes of the logits, summed over each document's positions."""

    num_positions: Float64[np.ndarray, " document"]
    gap: Float64[np.ndarray, " document"]
    """Of the joint change less the sum of the single ones."""
    joint: Float64[np.ndarray, " document"]
    """Of the change that ablating all of them at once makes."""
    num_runs: int
    """Sequences that the LM read."""


def gaps(
    coder: Coder,
    lm: SplicedLM,
    batches: Iterable[Sequences],
    *,
    hook: str,
    documents: Int64[np.ndarray, " document"],
    num_seqs: int,
    num_latents: int,
    batch_seqs: int,
    seed: int,
    reads: Iterable[Sequences] | None = None,
) -> Gaps:
    """Return how far the effects of single latents fail to add up.

    At each position, drawn among those where at least two latents fire, the strongest
    `num_latents` are taken out of the activation, one at a time and together; what the
    SAE does not explain stays. Logits are those of that position, less their mean,
    which no softmax sees. `reads` are those of `fidelity.splices`.
    """
    generator = np.random.default_rng(seed)
    num_positions, gap, joint = np.zeros((3, len(documents)))
    num_runs = 0
    beside = None if reads is None else first_seqs(reads, num_seqs, batch_seqs)
    for batch in first_seqs(batches, num_seqs, batch_seqs):
        read = batch if beside is None else next(beside)
        for row in range(len(batch.tokens)):
            for pos, parts in _drawn(coder, read, row, num_latents, generator):
                cut = Sequences(*(part[row : row + 1, : pos + 1] for part in batch))
                taken = torch.cat([parts.new_zeros(1, parts.shape[1]), parts])
                taken = torch.cat([taken, parts.sum(0, keepdim=True)])
                logits = _without(lm, hook, cut, taken, batch_seqs)
                change = logits[1:] - logits[0]
                document = np.searchsorted(documents, int(batch.document[row, pos]))
                num_positions[document] += 1
                joint[document] += float(change[-1].square().sum())
                left = change[-1] - change[:-1].sum(0)
                gap[document] += float(left.square().sum())
                num_runs += len(taken)
    return Gaps(num_positions, gap, joint, num_runs)


def scalars(found: Gaps, config: Evaluation) -> dict[str, Scalar]:
    """Return `additivity_gap`: 0 where effects add up exactly."""
    interval = intervals.bootstrap_ratio(
        found.gap,
        found.joint,
        num_resamples=config.num_resamples,
        seed=config.seed,
        bounds=intervals.NOT_NEGATIVE,
    )
    undefined = "no position where two latents fire, or where they change a logit"
    return {
        "additivity_gap": Scalar(
            *interval,
            n=int(found.num_positions.sum()),
            unit="1",
            method=f"strongest {config.cause_latents} latents of a position; pooled "
            "|joint - sum of single|^2 / |joint|^2 of centred logits; "
            "studentised document bootstrap",
            metric_version=METRIC_VERSION,
            seed=config.seed,
            reason=undefined if interval.value is None else None,
        )
    }


def _drawn(
    coder: Coder,
    batch: Sequences,
    row: int,
    num_latents: int,
    generator: np.random.Generator,
) -> Iterator[tuple[int, Float[Tensor, "latent d_in"]]]:
    """Yield positions and what their strongest latents add to the reconstruction."""
    x = batch.x[row].to(coder.W_dec.device)
    acts = coder.encode(x)
    size = acts.abs() * coder.W_dec.norm(dim=1)
    counted = (batch.mask[row] == 0).to(size.device)
    possible = ((size > 0).sum(1) > 1) & counted
    places = possible.nonzero()[:, 0].cpu().numpy()
    chosen = generator.permutation(places)[:_POSITIONS]
    for pos in sorted(chosen.tolist()):
        num_firing = int((size[pos] > 0).sum())
        latent = size[pos].topk(min(num_latents, num_firing)).indices
        yield pos, (acts[pos, latent, None] * coder.W_dec[latent]).to(batch.x.device)


def _without(
    lm: SplicedLM,
    hook: str,
    cut: Sequences,
    taken: Float[Tensor, "run d_in"],
    batch_seqs: int,
) -> Float64[Tensor, "run vocab"]:
    """Return the last position's logits, some part of its activation taken out."""
    found = []
    for part in torch.split(taken, batch_seqs):
        x = cut.x.expand(len(part), -1, -1).clone()
        x[:, -1] -= part
        tokens = cut.tokens.expand(len(part), -1)
        found.append(lm.logits_replaced(tokens, hook, x)[:, -1].double())
    logits = torch.cat(found)
    return logits - logits.mean(1, keepdim=True)
