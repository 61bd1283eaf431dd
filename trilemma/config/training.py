"""How all SAEs of a family are trained, and the control beside them."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from trilemma.config.section import Section


class Control(Section):
    """The frozen-random SAE that stands in every table: TopK, decoder never trained."""

    d_sae: PositiveInt | None = Field(
        None, description="Its width; absent means that of the family's widest SAE."
    )
    k: PositiveInt = Field(32, description="Latents it keeps while training.")
    lr: PositiveFloat | None = Field(
        None, description="Peak learning rate; absent means as for other SAEs."
    )
    seed: NonNegativeInt = Field(0, description="Seed of its random decoder.")


class Training(Section):
    """What all SAEs of a family share: data order, batches, schedule."""

    batch_tokens: PositiveInt = Field(2048, description="Rows in a step.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Of matrix products in training; weights, their moments and all "
        "sums are float32 in either case.",
    )
    b_dec_init: Literal["mean", "geometric_median"] = Field(
        "mean",
        description="Where b_dec starts: at the mean of the activations, or at the "
        "point with the least sum of distances to a sample of them, which a few huge "
        "ones hardly move.",
    )
    epochs: PositiveInt = Field(1, description="Passes over the training split.")
    seed: NonNegativeInt = Field(0, description="Seed of the order of rows.")
    warmup_fraction: float = Field(
        0.02, ge=0, le=1, description="Share of steps over which lr rises from 0."
    )
    decay_fraction: float = Field(
        0.2, ge=0, le=1, description="Share of steps at the end over which lr falls."
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="First decay rate of Adam.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Second decay rate of Adam.")
    clip_norm: PositiveFloat = Field(
        1.0,
        description="Largest norm of a gradient, that of the error summed over "
        "dimensions of scaled activations (elsewhere often that of the loss as it is).",
    )
    dead_after_tokens: PositiveInt = Field(
        10_000_000, description="Silent for this many tokens, a latent counts as dead."
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Decay of a running mean of the weights, which is exported in "
        "their place; absent: the last weights are exported.",
    )
    open_chunks: PositiveInt = Field(
        8,
        description="Chunks that are shuffled together in memory; there, those of "
        "int8 take four times their stored size.",
    )
    log_every_steps: PositiveInt = Field(
        50, description="Steps between two rows of the training curve."
    )
    eval_every_steps: PositiveInt | None = Field(
        None,
        description="Steps between two measurements on held-out rows; absent: none.",
    )
    eval_tokens: PositiveInt = Field(
        4096, description="Held-out rows of such a measurement, the first of the split."
    )
    checkpoint_every_steps: PositiveInt = Field(
        500, description="Steps between two checkpoints."
    )
