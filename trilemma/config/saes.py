"""The SAEs of a family, and how all of them are trained."""

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from trilemma.config.section import Section


class _SAE(Section):
    d_sae: PositiveInt = Field(description="Number of latents.")
    hook: str | None = Field(
        None, description="Hook to train on; may be left out if there is only one."
    )
    lr: PositiveFloat | None = Field(
        None,
        description="Peak learning rate; absent means 2e-4 / sqrt(d_sae / 2^14).",
    )
    seed: NonNegativeInt = Field(0, description="Seed of the initial weights.")


class ReLU(_SAE):
    """ReLU latents under an L1 penalty, with unit-norm decoder rows."""

    kind: Literal["relu"]
    l1_coefficient: NonNegativeFloat = Field(description="Weight of the L1 penalty.")
    sparsity_warmup_fraction: float = Field(
        0.05, ge=0, le=1, description="Share of the steps over which L1 is turned up."
    )


class JumpReLU(_SAE):
    """Latents with learned thresholds under an L0 penalty."""

    kind: Literal["jumprelu"]
    l0_coefficient: NonNegativeFloat = Field(description="Weight of the L0 penalty.")
    sparsity_warmup_fraction: float = Field(
        0.05, ge=0, le=1, description="Share of the steps over which L0 is turned up."
    )
    threshold_init: PositiveFloat = Field(
        0.4, description="Threshold at the start, in scaled units."
    )
    bandwidth: PositiveFloat = Field(
        0.3, description="Width of the straight-through estimator, in scaled units."
    )


class _K(_SAE):
    k: PositiveInt = Field(description="Latents kept for each token.")
    auxk_coefficient: NonNegativeFloat = Field(
        1 / 32, description="Weight of the auxiliary loss on dead latents."
    )

    @model_validator(mode="after")
    def _k_fits(self) -> "_K":
        if self.k > self.d_sae:
            raise ValueError(
                f"k: found {self.k}; must not exceed d_sae, which is {self.d_sae}"
            )
        return self


class TopK(_K):
    """The k largest latents of each token."""

    kind: Literal["topk"]
    freeze_decoder: bool = Field(
        False, description="Keep the decoder at its random start (a control)."
    )


class BatchTopK(_K):
    """The k x batch largest latents of a batch; a threshold at inference."""

    kind: Literal["batchtopk"]
    threshold_decay: float = Field(
        0.999, gt=0, lt=1, description="Decay of the inference threshold's average."
    )


SAEConfig = Annotated[ReLU | JumpReLU | TopK | BatchTopK, Field(discriminator="kind")]


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
    clip_norm: PositiveFloat = Field(1.0, description="Largest norm of a gradient.")
    dead_after_tokens: PositiveInt = Field(
        10_000_000, description="Silent for this many tokens, a latent counts as dead."
    )
    open_chunks: PositiveInt = Field(
        8,
        description="Chunks that are shuffled together in memory; there, those of "
        "int8 take four times their stored size.",
    )
    log_every_steps: PositiveInt = Field(
        50, description="Steps between two rows of the training curve."
    )
    checkpoint_every_steps: PositiveInt = Field(
        500, description="Steps between two checkpoints."
    )
