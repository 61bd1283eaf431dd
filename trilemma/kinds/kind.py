"""The seam between the training loop and the kinds of SAEs: what each kind decides."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from trilemma import losses
from trilemma.codes import Code
from trilemma.formats.saelens import Activation
from trilemma.matching_pursuit import Pursuit
from trilemma.ranks import ALONE, Ranks
from trilemma.sequences import Sequences

# A learning rate that suits the encoder turns unit rows slowly. Where no L1 shrinks
# activations, errors are lower and more features are found at ten times it
# (benchmarks/RESULTS.md, Quality); under L1 it is worse. Rows that begin at the norm
# 0.1, as SAELens's do, amount to the same factor.
DECODER_LR_FACTOR = 10.0

Weights = dict[str, Tensor]
"""W_enc, b_enc, W_dec, b_dec, all in scaled activations, and what the kind adds."""
Averages = dict[str, Tensor]
"""What changes from step to step without a gradient, such as a running threshold."""


class Batch(NamedTuple):
    """A batch of scaled activations, and when in training it comes."""

    x: Float[Tensor, "batch d_in"]
    """The rows of this rank."""
    step: int
    """Counted from 0."""
    num_steps: int
    averages: Averages
    """Those of the kind, as they stood after the step before."""
    dead: Int64[Tensor, "num_dead"]
    """Latents that count as dead."""
    gamma: Float[Tensor, "d_out"] | None = None
    """Weights of the dimensions in the squared error; None: all are 1."""
    sequences: Sequences | None = None
    """Whole sequences beside the batch, their activations in their own units."""
    ranks: Ranks = ALONE
    num_elsewhere: int = 0
    """Rows of the batch that other ranks have."""
    y: Float[Tensor, "batch d_out"] | None = None
    """The rows to reconstruct, scaled; None: those of x."""
    center: Float[Tensor, "d_in"] | None = None
    """What is subtracted from x before it is encoded; None: b_dec."""
    widths: tuple[int, ...] = ()
    """Of a joint hook, the widths of its hooks side by side; empty for one hook."""

    @property
    def target(self) -> Float[Tensor, "batch d_out"]:
        """Return the rows to reconstruct."""
        return self.x if self.y is None else self.y

    def center_of(self, weights: Weights) -> Float[Tensor, "d_in"]:
        """Return what is subtracted from x before it is encoded."""
        return weights["b_dec"] if self.center is None else self.center

    @property
    def num_rows(self) -> int:
        """Return the rows of all ranks."""
        return len(self.x) + self.num_elsewhere

    def mean(self, value: Tensor) -> Tensor:
        """Return a mean over this rank's rows as the mean over those of all ranks.

        What a loss is made of passes here once, before anything that is not linear is
        done to it; what no row enters stays what it is, and its gradient too.
        """
        if not self.num_elsewhere:
            return value
        return self.ranks.total(value * (len(self.x) / self.num_rows))

    def error(self, x_hat: Float[Tensor, "batch d_out"]) -> Float[Tensor, ""]:
        """Return the squared error, weighted, that a kind is to make small."""
        return losses.mse(self.target, x_hat, gamma=self.gamma)


class Forward(NamedTuple):
    """A batch on its way through an SAE, with gradients."""

    x_hat: Float[Tensor, "batch d_out"]
    """The reconstruction."""
    error: Float[Tensor, ""]
    """What is minimised, as a squared error summed over dimensions, mean over rows."""
    penalty: Float[Tensor, ""] | None
    """Mean over rows of what is penalised; None where nothing is."""
    code: Code


class Exported(NamedTuple):
    """What the kind says of an SAE at inference."""

    activation: Activation
    tensors: Weights
    """All tensors of the SAE, in the units of the activations."""
    k: int | None
    pursuit: Pursuit | None = None


@dataclass(frozen=True)
class Kind:
    """What a kind of SAE decides; made from its config, and unchanged by training."""

    forward: Callable[[Weights, Batch], Forward]
    export: Callable[[Weights, Averages, float], Exported]
    """Takes weights, averages and what activations are multiplied by in training."""
    has_unit_decoder: bool = True
    """Whether decoder rows keep unit norm."""
    kept_square: float = 0.5
    """Mean over latents of the squares that a random start keeps.

    Of standard normal pre-activations, 0 for those not kept; a half is positive.
    """
    starts_as_rows: bool = False
    """Whether latents begin as rows of the data; see `objective.rows_to_begin_as`."""
    penalty_of: Callable[[Tensor, int], Tensor] = lambda mean, d_in: mean
    """Gives what coefficient / d_in weighs, from the mean over all rows, and d_in."""
    coefficient: float = 0.0
    """Weight of the penalty, once it is turned up."""
    warmup_fraction: float = 0.0
    """Share of the steps over which it is turned up."""
    auxk_coefficient: float = 0.0
    """Weight of AuxK on dead latents."""
    added_weights: Weights = field(default_factory=dict)
    """Weights to start from besides those that all kinds share."""
    lr_factors: dict[str, float] = field(default_factory=dict)
    """What the learning rate of some weights is multiplied by, by name."""
    resampled_norm: float = 0.2
    """Norm of a resampled latent's encoder, over the mean of the alive ones' norms."""
    parents: Int64[Tensor, "d_sae"] | None = None
    """In a tree each latent's parent, -1 for roots, on the CPU."""
    averages: Averages = field(default_factory=dict)
    """Averages before the first step."""
    averaged: Callable[[Batch, Forward], Averages] = lambda batch, forward: {}
    """Gives the averages after a step, and leaves those before it as they are."""

    def coefficient_at(self, step: int, num_steps: int) -> float:
        """Return the penalty's weight at a step: it rises evenly over the warm-up."""
        warmup = self.warmup_fraction * num_steps
        rising = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
        return self.coefficient * rising


def unscaled(weights: Weights, scale: float) -> Weights:
    """Return what all kinds share, for activations that `scale` multiplies."""
    return {
        "W_enc": weights["W_enc"],
        "b_enc": weights["b_enc"] / scale,
        "W_dec": weights["W_dec"],
        "b_dec": weights["b_dec"] / scale,
    }
