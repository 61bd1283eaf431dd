"""Dead latents begin anew where the SAE does badly (`resample_every_steps`).

Bricken et al. (2023), "Towards monosemanticity", appendix "Neuron resampling": rows are
drawn in proportion to their squared loss; a dead latent's decoder row becomes the unit
direction of a row, its encoder the same direction at a fifth of the mean norm of the
alive ones', its bias zero, and Adam forgets it. Ours: the rows are those of the step's
batch, TopK kinds take the whole of that norm, and what a kind adds (thresholds, gates)
goes back to its start. Where other activations are reconstructed than are read, the
decoder row is the direction of what is missing there beside b_dec and a skip.
"""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from trilemma.codes import Code
from trilemma.config.saes import SAEConfig
from trilemma.config.training import Training
from trilemma.kinds.kind import Batch, Kind, Weights
from trilemma.ranks import Ranks

_NO_PARENT = -1


class Drawn(NamedTuple):
    """Latents that begin anew, and the row of the batch that each takes."""

    latents: Int64[Tensor, "num"]
    rows: Int64[Tensor, "num"]


def check(config: SAEConfig, shared: Training, *, key: str, num_steps: int) -> None:
    """Check that resampling can find a dead latent before it ends.

    Raises:
        ValueError: it cannot.
    """
    every, until = config.resample_every_steps, config.resample_until_fraction
    if every is None or until is None:
        return
    last = int(until * num_steps) // every * every
    if last * shared.batch_tokens < shared.dead_after_tokens:
        silent = f"{shared.dead_after_tokens:,} tokens"
        raise ValueError(
            f"training {key}: found resample_every_steps {every}, but at step {last:,} "
            f"of {num_steps:,}, its last, no latent can have been silent for {silent}; "
            "lower training.dead_after_tokens or train longer"
        )


def is_due(config: SAEConfig, step: int, num_steps: int) -> bool:
    """Return whether dead latents begin anew after so many steps."""
    every, until = config.resample_every_steps, config.resample_until_fraction
    if every is None or until is None:
        return False
    return step % every == 0 and step <= until * num_steps


def draw(
    is_dead: Bool[Tensor, "d_sae"],
    code: Code,
    squared_error: Float[Tensor, "batch"],
    *,
    parents: Int64[Tensor, "d_sae"] | None,
    seed: int,
    step: int,
    ranks: Ranks,
) -> Drawn:
    """Return a row for each dead latent; chance depends on seed and step alone.

    The code and the errors are of this rank's rows; drawn are rows of the whole batch.
    No row is taken twice; the latents for which none is left wait for the next round.
    In a tree a latent takes a row on which its parent fires, since on any other it
    would stay silent; where there is none, it waits.
    """
    digest = hashlib.sha256(f"{seed}/resampling/{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    dead = is_dead.nonzero().squeeze(1).cpu()
    above = torch.full_like(dead, _NO_PARENT) if parents is None else parents[dead]
    chance = torch.cat(ranks.gathered(squared_error)).double().square().cpu()
    latents, rows = [dead[:0]], [dead[:0]]
    for parent in sorted(set(above.tolist())):
        here = chance
        if parent != _NO_PARENT:
            fires = _fires(code, parent, len(squared_error))
            here = chance * torch.cat(ranks.gathered(fires)).cpu()
        children = dead[above == parent][: int(here.count_nonzero())]
        if len(children):
            latents.append(children)
            rows.append(torch.multinomial(here, len(children), generator=generator))
            chance[rows[-1]] = 0
    device = is_dead.device
    return Drawn(torch.cat(latents).to(device), torch.cat(rows).to(device))


def fresh(
    drawn: Drawn,
    batch: Batch,
    *,
    is_dead: Bool[Tensor, "d_sae"],
    kind: Kind,
    weights: Weights,
) -> Weights:
    """Return what the latents drawn have in place of their weights.

    The batch has the rows of all ranks.
    """
    read = batch.x[drawn.rows] - batch.center_of(weights)
    wanted = batch.target[drawn.rows] - weights["b_dec"]
    if "W_skip" in weights:
        wanted = wanted - read @ weights["W_skip"]
    norms = weights["W_enc"].norm(dim=0)
    alive = norms[~is_dead]
    norm = (alive if len(alive) else norms).mean()
    added = {
        name: start.to(read.device)[drawn.latents]
        for name, start in kind.added_weights.items()
    }
    return {
        "W_enc": (kind.resampled_norm * norm * functional.normalize(read, dim=1)).t(),
        "b_enc": read.new_zeros(len(read)),
        "W_dec": functional.normalize(wanted, dim=1),
    } | added


def _fires(code: Code, latent: int, batch: int) -> Bool[Tensor, "batch"]:
    """Return on which rows a latent fires."""
    if code.support is None:
        return code.acts[:, latent] > 0
    is_its = (code.support.columns == latent) & (code.acts > 0)
    found = is_its.new_zeros(batch)
    return found.index_fill_(0, code.support.rows[is_its], True)
