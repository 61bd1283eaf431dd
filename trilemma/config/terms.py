"""What may be added to the loss of an SAE of any kind; every part is off by default."""

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from trilemma.config.section import Section

# Of a value that has no place in a name.
_DIGEST_CHARACTERS = 6


class _InputWeights(Section):
    alpha: PositiveFloat = Field(
        1.0, description="Power of the score that makes it a weight."
    )
    normalisation: Literal["none", "mean", "max"] = Field(
        "mean", description="mean, max: which of the weights comes to 1."
    )


class VarianceWeights(_InputWeights):
    """A dimension's score is its variance over the training split."""

    kind: Literal["variance"]


class ConsistencyWeights(_InputWeights):
    """A dimension's score is how often its active rows have one and the same token."""

    kind: Literal["consistency"]
    num_rows: PositiveInt = Field(
        16_384, description="First rows of the training split that are looked at."
    )
    active_fraction: float = Field(
        0.01,
        gt=0,
        le=1,
        description="Share of them on which a dimension is active: those on which it "
        "is farthest from its mean.",
    )


class GivenWeights(_InputWeights):
    """A dimension's score is a number given."""

    kind: Literal["given"]
    values: tuple[PositiveFloat, ...] | None = Field(
        None, min_length=1, description="A score for each dimension."
    )
    path: str | None = Field(
        None,
        description="An .npy file, or a .safetensors file of one tensor, with them.",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> "GivenWeights":
        if (self.values is None) == (self.path is None):
            found = "neither" if self.values is None else "both"
            raise ValueError(f"values, path: found {found}; name exactly one of them")
        return self


InputWeights = Annotated[
    VarianceWeights | ConsistencyWeights | GivenWeights, Field(discriminator="kind")
]


class _Term(Section):
    coefficient: PositiveFloat = Field(description="Weight of the term.")


class Incoherence(_Term):
    """Squared cosines between decoder rows."""


class LoadBalance(_Term):
    """How unevenly latents fire."""

    form: Literal["squared", "switch"] = Field(
        "squared",
        description="squared: deviations of densities from their mean; switch: the "
        "auxiliary loss of Switch Transformers.",
    )


class Monosemanticity(_Term):
    """How unlike the activations are on which a latent fires: MonoLoss."""


class EndToEnd(_Term):
    """What the LM's predictions lose when reconstructions are spliced in."""

    loss: Literal["kl", "ce"] = Field(
        "kl",
        description="kl: divergence of the predictions from those of the LM alone; ce: "
        "cross-entropy of the next token.",
    )
    batch_seqs: PositiveInt = Field(
        4, description="Training sequences read in a step, besides its batch."
    )


class Terms(Section):
    """Terms of the loss besides those of the kind."""

    input_weights: InputWeights | None = Field(
        None, description="Weights of the input dimensions in the squared error."
    )
    incoherence: Incoherence | None = Field(
        None, description="Pushes decoder rows apart."
    )
    load_balance: LoadBalance | None = Field(
        None, description="Lets latents fire equally often."
    )
    monosemanticity: Monosemanticity | None = Field(
        None, description="Lets a latent fire on activations that are alike."
    )
    end_to_end: EndToEnd | None = Field(
        None, description="Keeps what the LM predicts from reconstructions."
    )

    @model_validator(mode="after")
    def _has_a_term(self) -> "Terms":
        if not any(value for _, value in self):
            raise ValueError("found none of them; name one, or remove it")
        return self

    @property
    def title(self) -> str:
        """Return what tells these terms from others, fit for a name."""
        chosen = self.model_dump(mode="json", exclude_defaults=True)
        return "-".join(
            "_".join([name, *map(_word, section.values())])
            for name, section in chosen.items()
        )


def _word(value: Any) -> str:
    """Return a setting (hence `Any`) as it is, or in short."""
    text = str(value)
    if re.fullmatch(r"[a-z0-9.-]+", text):
        return text
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARACTERS]
