"""The SAEs of a family: their kinds and what each can be set to."""

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from trilemma.config import joint
from trilemma.config.section import Section
from trilemma.config.terms import Terms


class _SAE(Section):
    d_sae: PositiveInt = Field(description="Number of latents.")
    hook: joint.Hook | None = Field(
        None,
        description="Hook to train on; may be left out if there is only one. A list: "
        "several of them side by side, for a crosscoder.",
    )
    target_hook: str | None = Field(
        None,
        description="Hook whose activations are reconstructed from those of `hook`, by "
        "a transcoder; absent: its own.",
    )
    skip: bool = Field(
        False,
        description="Let a transcoder add x W_skip, linear in what it reads, to what "
        "its latents decode to.",
    )
    lr: PositiveFloat | None = Field(
        None,
        description="Peak learning rate; absent means 2e-4 / sqrt(d_sae / 2^14).",
    )
    seed: NonNegativeInt = Field(
        0, description="Seed of the initial weights, and of resampling."
    )
    decoder_bias: bool = Field(
        True,
        description="Train the decoder's bias; without, it stays 0, as theory that "
        "knows none has it, and what the encoder reads is not centred.",
    )
    resample_every_steps: PositiveInt | None = Field(
        None,
        description="Steps between two times that dead latents begin anew, along rows "
        "with a large loss; absent: they never do.",
    )
    resample_until_fraction: float | None = Field(
        None, gt=0, le=1, description="Share of the steps after which none does."
    )
    terms: Terms | None = Field(
        None, description="What is added to the loss; absent: nothing."
    )

    @model_validator(mode="after")
    def _resampling_is_whole(self) -> Self:
        if (self.resample_every_steps is None) != (
            self.resample_until_fraction is None
        ):
            raise ValueError(
                "resample_every_steps: goes with resample_until_fraction; give both"
            )
        return self

    @model_validator(mode="after")
    def _terms_have_an_effect(self) -> Self:
        for key in ("incoherence", "load_balance"):
            if self.d_sae == 1 and getattr(self.terms, key, None) is not None:
                raise ValueError(
                    f"terms.{key}: has no effect on a single latent; remove it"
                )
        return self

    @model_validator(mode="after")
    def _joint_hook_fits(self) -> Self:
        joint.check(self.hook)
        if not isinstance(self.hook, tuple):
            return self
        if self.target_hook is not None:
            raise ValueError(
                "target_hook: a crosscoder reconstructs the hooks that it reads; "
                "remove it, or name one hook"
            )
        if self.terms is not None and self.terms.input_weights is not None:
            raise ValueError(
                "terms.input_weights: weighs the dimensions of one hook; remove it, or "
                "name one hook"
            )
        if self.terms is not None and self.terms.end_to_end is not None:
            raise ValueError(
                "terms.end_to_end: reads the activations of one hook alone; remove it, "
                "or name one hook"
            )
        return self

    @model_validator(mode="after")
    def _target_has_an_effect(self) -> Self:
        if self.target_hook is None:
            if self.skip:
                raise ValueError("skip: has no effect without target_hook; remove it")
        elif self.terms is not None and self.terms.end_to_end is not None:
            raise ValueError(
                "terms.end_to_end: reads the activations of one hook alone; remove it "
                "or target_hook"
            )
        return self

    def recorded(self) -> dict[str, Any]:
        """Return its settings as JSON values (hence `Any`), less where files lie."""
        return self.model_dump(
            mode="json", exclude={"terms": {"input_weights": {"path"}}}
        )


class _Penalised(_SAE):
    sparsity_warmup_fraction: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of the steps over which the penalty is turned up.",
    )


class ReLU(_Penalised):
    """ReLU latents under a penalty on their activations."""

    kind: Literal["relu"]
    l1_coefficient: NonNegativeFloat = Field(description="Weight of the penalty.")
    penalty: Literal["l1", "l1_decoder_norm", "lp", "log"] = Field(
        "l1_decoder_norm",
        description="l1: sum of activations; l1_decoder_norm: each times the norm of "
        "its decoder row, which is then free; lp: sum of activations to the power p; "
        "log: sum of log(1 + activation / log_scale).",
    )
    p: float | None = Field(None, gt=0, le=1, description="Power of the penalty lp.")
    p_end: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Power to which p falls in ten equal steps, itself never reached; "
        "absent: p stays.",
    )
    p_anneal_start_fraction: float | None = Field(
        None, ge=0, lt=1, description="Share of the steps after which p falls."
    )
    log_scale: PositiveFloat | None = Field(
        None, description="Activation that the penalty log takes for small."
    )

    @model_validator(mode="after")
    def _penalty_is_whole(self) -> "ReLU":
        needs = {"lp": ("p",), "log": ("log_scale",)}.get(self.penalty, ())
        for key in ("p", "log_scale"):
            found = getattr(self, key)
            if (found is not None) != (key in needs):
                need = "missing; it needs one" if found is None else "has no effect"
                raise ValueError(f"{key}: {need} with penalty {self.penalty!r}")
        if (self.p_end is None) != (self.p_anneal_start_fraction is None):
            raise ValueError("p_end: goes with p_anneal_start_fraction; give both")
        if self.p_end is not None and (self.p is None or self.p_end >= self.p):
            raise ValueError(f"p_end: found {self.p_end}; must be below p")
        return self


class Gated(_Penalised):
    """Latents with a gate beside their magnitude, under L1 on the gates."""

    kind: Literal["gated"]
    l1_coefficient: NonNegativeFloat = Field(description="Weight of the penalty.")


class Group(_Penalised):
    """ReLU latents in groups of equal size, under a penalty on each group's norm."""

    kind: Literal["group"]
    l1_coefficient: NonNegativeFloat = Field(description="Weight of the penalty.")
    group_size: PositiveInt = Field(description="Latents in a group; divides d_sae.")

    @model_validator(mode="after")
    def _groups_fit(self) -> "Group":
        if self.d_sae % self.group_size:
            raise ValueError(
                f"group_size: found {self.group_size}; must divide d_sae, which is "
                f"{self.d_sae}"
            )
        return self


class Tree(_Penalised):
    """ReLU latents in trees: one fires only where its parent does, under L1."""

    kind: Literal["tree"]
    l1_coefficient: NonNegativeFloat = Field(description="Weight of the penalty.")
    num_roots: PositiveInt = Field(description="Latents without a parent.")
    branching: PositiveInt = Field(
        description="Children of each latent, level by level, until d_sae is reached."
    )

    @model_validator(mode="after")
    def _roots_fit(self) -> "Tree":
        if self.num_roots > self.d_sae:
            raise ValueError(
                f"num_roots: found {self.num_roots}; must not exceed d_sae, which is "
                f"{self.d_sae}"
            )
        return self


class JumpReLU(_Penalised):
    """Latents with learned thresholds under an L0 penalty."""

    kind: Literal["jumprelu"]
    l0_coefficient: NonNegativeFloat = Field(description="Weight of the penalty.")
    penalty: Literal["step", "tanh"] = Field(
        "step",
        description="step: L0 with a straight-through gradient; tanh: a smooth count, "
        "and a pull on silent latents.",
    )
    target_l0: PositiveFloat | None = Field(
        None,
        description="L0 to reach: what is minimised is then fvu + l0_coefficient * "
        "(L0 / target_l0 - 1)^2, of which 1 is a good coefficient.",
    )
    tanh_scale: PositiveFloat | None = Field(
        None, description="Steepness of the penalty tanh."
    )
    pre_act_coefficient: NonNegativeFloat | None = Field(
        None, description="Weight of the pull of the penalty tanh on dead latents."
    )
    threshold_init: PositiveFloat = Field(
        0.4, description="Threshold at the start, in scaled units."
    )
    bandwidth: PositiveFloat = Field(
        0.3, description="Width of the straight-through estimator, in scaled units."
    )

    @model_validator(mode="after")
    def _penalty_is_whole(self) -> "JumpReLU":
        is_tanh = self.penalty == "tanh"
        for key in ("tanh_scale", "pre_act_coefficient"):
            if (getattr(self, key) is not None) != is_tanh:
                need = "missing; it needs one" if is_tanh else "has no effect"
                raise ValueError(f"{key}: {need} with penalty {self.penalty!r}")
        if self.target_l0 is None:
            return self
        if is_tanh:
            raise ValueError("target_l0: has no effect with penalty 'tanh'")
        if self.l0_coefficient == 0:
            raise ValueError("target_l0: has no effect with l0_coefficient 0")
        if self.target_l0 > self.d_sae:
            raise ValueError(
                f"target_l0: found {self.target_l0}; must not exceed d_sae, which is "
                f"{self.d_sae}"
            )
        return self


class _K(_SAE):
    k: PositiveInt = Field(description="Latents kept for each token.")
    k_start: PositiveInt | None = Field(
        None, description="Latents kept at the first step; absent: k."
    )
    k_anneal_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the steps over which k_start turns into k. Above 0.8 the "
        "threshold of batchtopk and matryoshka, a running mean, may lag behind k.",
    )
    auxk_coefficient: NonNegativeFloat = Field(
        1 / 32, description="Weight of the auxiliary loss on dead latents."
    )
    inference: Literal["encoder", "matching_pursuit"] = Field(
        "encoder",
        description="matching_pursuit: the trained SAE finds its codes by k greedy "
        "steps with the decoder alone, without its encoder.",
    )

    @model_validator(mode="after")
    def _k_fits(self) -> "_K":
        for key in ("k", "k_start"):
            found = getattr(self, key)
            if found is not None and found > self.d_sae:
                raise ValueError(
                    f"{key}: found {found}; must not exceed d_sae, which is "
                    f"{self.d_sae}"
                )
        if (self.k_start is None) != (self.k_anneal_fraction is None):
            raise ValueError("k_start: goes with k_anneal_fraction; give both")
        if self.k_start == self.k:
            raise ValueError(f"k_start: found {self.k_start}, which is k; remove it")
        if isinstance(self.hook, tuple) and self.inference == "matching_pursuit":
            raise ValueError(
                "inference: matching_pursuit measures distances in activations as they "
                "are, a crosscoder in scaled ones; remove it, or name one hook"
            )
        if self.target_hook is not None and self.inference == "matching_pursuit":
            raise ValueError(
                "inference: matching_pursuit finds codes in what is reconstructed, "
                "which a transcoder does not read; remove it or target_hook"
            )
        return self


class TopK(_K):
    """The k largest latents of each token."""

    kind: Literal["topk"]
    freeze_decoder: bool = Field(
        False, description="Keep the decoder at its random start (a control)."
    )

    @model_validator(mode="after")
    def _decoder_can_be_resampled(self) -> "TopK":
        if self.freeze_decoder and self.resample_every_steps is not None:
            raise ValueError("resample_every_steps: has no effect with freeze_decoder")
        return self

    @model_validator(mode="after")
    def _decoder_can_follow(self) -> "TopK":
        if self.freeze_decoder and self.terms and self.terms.incoherence:
            raise ValueError(
                "terms.incoherence: has no effect beside freeze_decoder; "
                "remove one of them"
            )
        return self


class _BatchK(_K):
    threshold_decay: float = Field(
        0.999, gt=0, lt=1, description="Decay of the inference threshold's average."
    )

    @model_validator(mode="after")
    def _threshold_has_an_effect(self) -> Self:
        default = type(self).model_fields["threshold_decay"].default
        if self.inference == "matching_pursuit" and self.threshold_decay != default:
            raise ValueError(
                "threshold_decay: has no effect with inference 'matching_pursuit'"
            )
        return self


class BatchTopK(_BatchK):
    """The k x batch largest latents of a batch; a threshold at inference."""

    kind: Literal["batchtopk"]


class Matryoshka(_BatchK):
    """BatchTopK whose first latents alone have to reconstruct too, at every width."""

    kind: Literal["matryoshka"]
    widths: tuple[PositiveInt, ...] = Field(
        min_length=1,
        description="Widths of the nested SAEs, ascending, the last one d_sae.",
    )

    @model_validator(mode="after")
    def _widths_nest(self) -> "Matryoshka":
        rising = all(a < b for a, b in itertools.pairwise(self.widths))
        if not rising or self.widths[-1] != self.d_sae:
            raise ValueError(
                f"widths: found {list(self.widths)}; they must rise and end at d_sae, "
                f"which is {self.d_sae}"
            )
        return self


SAEConfig = Annotated[
    ReLU | Gated | Group | Tree | JumpReLU | TopK | BatchTopK | Matryoshka,
    Field(discriminator="kind"),
]
