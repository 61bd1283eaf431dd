"""What an SAE starts from and minimises, whatever its kind, in scaled activations."""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from trilemma import kinds, losses
from trilemma.config.saes import SAEConfig, TopK
from trilemma.kinds.kind import Batch, Forward, Kind, Weights
from trilemma.terms import Term

# Of free decoder rows at the start; as in SAELens.
_FREE_NORM = 0.1
# Rows for each latent that begins as one. Neighbours are of one text, and alike: with
# fewer to draw from more latents end silent (benchmarks/RESULTS.md, Quality).
_SPREAD = 16
# Of a latent's first direction, the rest random: two that take one row must part.
_ROW_SHARE = 0.9
# Rows meet rows like themselves, so pre-activations are larger than those of random
# directions; 0.1 and 1 were worse (benchmarks/RESULTS.md, Quality).
_SCALE_AS_ROWS = 0.4


class BatchLoss(NamedTuple):
    """The loss of a batch and what is logged of it."""

    loss: Float[Tensor, ""]
    """What is minimised."""
    fvu: Float[Tensor, ""]
    """Squared error over the variance of all training activations."""
    forward: Forward


def rows_to_begin_as(config: SAEConfig, num_rows: int) -> Int64[Tensor, "num"]:
    """Return which of `num_rows` rows of the data latents begin as, ascending.

    The seed draws one for each latent, or all where there are fewer, from the first
    16 d_sae: two seeds have a sixteenth in common. None where the kind begins at
    random, as every transcoder does: what it reads is not what it reconstructs.
    """
    if not kinds.make(config).starts_as_rows or config.target_hook is not None:
        return torch.zeros(0, dtype=torch.int64)
    pool = min(num_rows, _SPREAD * config.d_sae)
    drawn = torch.randperm(pool, generator=_generator(config, "rows"))
    return drawn[: config.d_sae].sort().values


def initial_weights(
    config: SAEConfig,
    kind: Kind,
    *,
    d_in: int,
    b_dec: Float[Tensor, "d_out"],
    rows: Float[Tensor, "num d_out"] | None = None,
) -> Weights:
    """Return the weights before the first step, from the config's seed and `rows`.

    Decoder rows are random unit vectors, the encoder their transpose, scaled so that
    the first reconstructions are about as large as the activations. Given `rows` of
    the data, latents begin along these less b_dec, in an order of the seed's (as in
    K-SVD: Aharon, Elad and Bruckstein, 2006). Decoder rows that are free
    begin short, and the encoder as their transpose (Conerly et al., Anthropic, April
    2024, "Update on how we train SAEs"): so they soon turn where they are wanted.
    b_dec has the width of what is reconstructed. A transcoder's encoder is random for
    itself, and its skip zero.
    """
    generator = _generator(config, "sae")
    random = torch.randn(config.d_sae, len(b_dec), generator=generator)
    if not config.decoder_bias:
        b_dec = torch.zeros_like(b_dec)
    W_enc = W_dec = functional.normalize(random, dim=1)
    scale = _encoder_scale(config.d_sae, len(b_dec), kind.kept_square)
    if rows is not None and len(rows) > 0:
        W_enc = W_dec = _along(rows - b_dec, W_dec, generator)
        scale *= _SCALE_AS_ROWS
    added = kind.added_weights
    if config.target_hook is not None:
        random = torch.randn(config.d_sae, d_in, generator=generator)
        W_enc = functional.normalize(random, dim=1)
        if config.skip:
            added = added | {"W_skip": torch.zeros(d_in, len(b_dec))}
    if kind.has_unit_decoder:
        W_enc = scale * W_enc
    else:
        W_enc, W_dec = _FREE_NORM * W_enc, _FREE_NORM * W_dec
    return {
        "W_enc": W_enc.t().contiguous(),
        "b_enc": torch.zeros(config.d_sae),
        "W_dec": W_dec,
        "b_dec": b_dec,
    } | {name: weight.clone() for name, weight in added.items()}


def is_trained(config: SAEConfig, name: str) -> bool:
    """Return whether a weight changes in training."""
    if name == "b_dec":
        return config.decoder_bias
    is_frozen = isinstance(config, TopK) and config.freeze_decoder
    return not (is_frozen and name == "W_dec")


def forward(
    encode_and_decode: Callable[[Weights, Batch], Forward],
    weights: Weights,
    batch: Batch,
) -> Forward:
    """Return a batch on its way through an SAE of a kind.

    What a skip gives is taken off what the code has to reconstruct, so that kinds need
    not know of it, and added to the reconstruction.
    """
    if "W_skip" not in weights:
        return encode_and_decode(weights, batch)
    given = (batch.x - batch.center_of(weights)) @ weights["W_skip"]
    found = encode_and_decode(weights, batch._replace(y=batch.target - given))
    return found._replace(x_hat=found.x_hat + given)


def of_batch(
    kind: Kind,
    weights: Weights,
    batch: Batch,
    *,
    variance: float,
    added: Sequence[Term] = (),
) -> BatchLoss:
    """Return the loss of a batch, with the gradient that this rank's rows give it.

    It is error / variance + coefficient * penalty / d_in + auxk_coefficient * auxk,
    where error and penalty are the kind's, and coefficient * value of each added
    term, in float32. `variance` is E||x - E x||^2. Where x is not what is
    reconstructed, y stands for it, in d_in too.
    """
    target = batch.target
    d_in = target.shape[1]
    found = forward(kind.forward, weights, batch)
    loss = batch.mean(found.error) / variance
    if found.penalty is not None:
        coefficient = kind.coefficient_at(batch.step, batch.num_steps)
        penalty = kind.penalty_of(batch.mean(found.penalty), d_in)
        loss = loss + coefficient / d_in * penalty
    dead = batch.dead
    if kind.auxk_coefficient and len(dead) > 0:
        loss = loss + kind.auxk_coefficient * losses.auxk(
            target - found.x_hat,
            batch.x,
            W_enc=weights["W_enc"].index_select(1, dead),
            b_enc=weights["b_enc"].index_select(0, dead),
            W_dec=weights["W_dec"].index_select(0, dead),
            center=batch.center_of(weights),
            k=min(d_in // 2, len(dead)),
            mean=batch.mean,
        )
    for term in added:
        with torch.autocast(target.device.type, enabled=False):
            loss = loss + term.coefficient * term.value(weights, batch, found)
    fvu = batch.mean(losses.mse(target, found.x_hat.detach())) / variance
    return BatchLoss(loss, fvu, found)


def _generator(config: SAEConfig, purpose: str) -> torch.Generator:
    digest = hashlib.sha256(f"{config.seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _along(
    rows: Float[Tensor, "num d_out"],
    random: Float[Tensor, "d_sae d_out"],
    generator: torch.Generator,
) -> Float[Tensor, "d_sae d_out"]:
    """Return unit directions near rows, each taken once before any is taken again."""
    drawn = torch.randperm(len(rows), generator=generator)
    drawn = drawn.repeat(-(-len(random) // len(drawn)))[: len(random)]
    mixed = _ROW_SHARE * functional.normalize(rows[drawn], dim=1)
    return functional.normalize(mixed + (1 - _ROW_SHARE) * random, dim=1)


def _encoder_scale(d_sae: int, d_in: int, kept_square: float) -> float:
    """Return the scale of the encoder with the least first error.

    With random unit rows and isotropic activations, E||x||^2 = d_in, pre-activations
    are standard normal; let S be the sum of the squares that are kept. At scale c
    the reconstruction has the inner product c S with x and the squared norm
    c^2 (S^2 / d_in + S), so that c = d_in / (d_in + S) is best. For a wide SAE that
    keeps half its latents at first c = 1 gives many times x, and a short run spends
    most of its steps on getting rid of that.
    """
    return d_in / (d_in + d_sae * kept_square)
