"""What a toy is made of: which concepts occur, how often, together, how strongly."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from trilemma.config.section import Section

Probability = Annotated[float, Field(gt=0, lt=1)]
PAIR = 2
"""Size of the blocks that can have any co-occurrence that exists."""


class FeatureTree(Section):
    """Trees of features, in which a child is active only where its parent is.

    Features stand level by level: a root, its children, theirs; then the next root.
    """

    branching: PositiveInt = Field(description="Children of each feature.")
    depth: int = Field(2, ge=2, description="Levels of a tree, its root among them.")
    child_probability: float = Field(
        0.5, gt=0, le=1, description="P(child active | parent active)."
    )
    exclusive: bool = Field(
        False, description="At most one child of a parent is active."
    )

    @property
    def size(self) -> int:
        """Return the number of features in a tree."""
        return sum(self.branching**level for level in range(self.depth))

    @model_validator(mode="after")
    def _children_fit(self) -> Self:
        if self.exclusive and self.branching * self.child_probability > 1:
            raise ValueError(
                f"child_probability: found {self.child_probability:g}; of "
                f"{self.branching} exclusive children each has at most "
                f"{1 / self.branching:.3g}"
            )
        return self


class Copula(Section):
    """A Gaussian copula: features are active where correlated normals are low.

    Each normal shares `strength` of its variance with `rank` common ones, along a
    random direction; the correlation of two is `strength` times their cosine.
    """

    rank: PositiveInt = Field(8, description="Normals that all features share.")
    strength: float = Field(
        0.5, gt=0, le=1, description="Share of a feature's normal that they make up."
    )


class Toy(Section):
    """A generative model with known features, in place of an LM and a corpus."""

    num_features: PositiveInt = Field(64, description="Ground-truth features.")
    d_in: PositiveInt = Field(32, description="Width of the activations.")
    num_tokens: PositiveInt = Field(262_144, description="Training rows to draw.")
    num_eval_tokens: PositiveInt = Field(32_768, description="Held-out rows to draw.")
    ctx: PositiveInt = Field(64, description="Rows that form one 'document'.")
    density: Probability = Field(
        0.05,
        description="Marginal probability of each feature (in trees: of each root).",
    )
    zipf_exponent: float = Field(
        0.0,
        ge=0,
        description="Marginals fall as 1 / rank^this, their mean at density; a block "
        "or a tree has one rank.",
    )
    densities: tuple[Probability, ...] | None = Field(
        None, description="The marginal of each feature; absent: by density."
    )
    co_occurrence: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Within each block, P(the most frequent active | another active): "
        "0 keeps them apart, absent leaves all features independent.",
    )
    block_size: int = Field(
        2, ge=2, description="Consecutive features that co_occurrence ties together."
    )
    tree: FeatureTree | None = Field(None, description="Features in trees.")
    copula: Copula | None = Field(None, description="Features that are correlated.")
    magnitude: Literal["uniform", "constant", "half_normal"] = Field(
        "uniform",
        description="Of active features, with mean 1: uniform in [0.5, 1.5], always 1, "
        "or the absolute value of a normal.",
    )
    bias: float = Field(
        0.0, ge=0, description="Norm of a constant vector added to every row."
    )
    noise: float = Field(0.0, ge=0, description="Standard deviation added to each dim.")
    seed: NonNegativeInt = Field(0, description="Seed of features and of samples.")

    @property
    def marginals(self) -> tuple[float, ...]:
        """Return how often each feature is active."""
        if self.densities is not None:
            return self.densities
        unit = 1
        if self.tree is not None:
            unit = self.tree.size
        elif self.co_occurrence is not None:
            unit = self.block_size
        ranks = [1 + feature // unit for feature in range(self.num_features)]
        weights = [rank**-self.zipf_exponent for rank in ranks]
        mean = sum(weights) / len(weights)
        found = [self.density * (weight / mean) for weight in weights]
        if self.tree is not None:
            tree = self.tree
            levels = [n for n in range(tree.depth) for _ in range(tree.branching**n)]
            found = [
                root * tree.child_probability ** levels[feature % unit]
                for feature, root in enumerate(found)
            ]
        return tuple(found)

    @property
    def summary(self) -> str:
        """Return what it is made of, in words."""
        words = [
            f"{self.num_features} features in {self.d_in} dimensions",
            f"mean density {sum(self.marginals) / self.num_features:.3g}",
        ]
        if self.co_occurrence is not None:
            words.append(
                f"co-occurrence {self.co_occurrence:g} in blocks of {self.block_size}"
            )
        if self.tree is not None:
            words.append(f"in trees of {self.tree.size}")
        if self.copula is not None:
            words.append(f"correlated through {self.copula.rank} normals")
        return ", ".join([*words, f"{self.magnitude} magnitudes"])

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        ties = [
            key
            for key in ("co_occurrence", "tree", "copula")
            if getattr(self, key) is not None
        ]
        if len(ties) > 1:
            raise ValueError(f"{ties[1]}: has no effect beside {ties[0]}; remove one")
        idle = {
            "block_size": (self.co_occurrence is None, "without co_occurrence"),
            "density": (self.densities is not None, "beside densities"),
            "zipf_exponent": (self.densities is not None, "beside densities"),
            "densities": (self.tree is not None, "beside tree"),
        }
        for key, (is_idle, why) in idle.items():
            if is_idle and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: has no effect {why}; remove it")
        return self

    @model_validator(mode="after")
    def _marginals_exist(self) -> Self:
        if self.densities is not None and len(self.densities) != self.num_features:
            raise ValueError(
                f"densities: found {len(self.densities)}; give one for each of "
                f"num_features, which is {self.num_features}"
            )
        if self.tree is not None and self.num_features % self.tree.size:
            raise ValueError(
                f"num_features: found {self.num_features}; it must be a multiple of "
                f"the features in a tree, {self.tree.size}"
            )
        if max(self.marginals) >= 1:
            raise ValueError(
                f"zipf_exponent: found {self.zipf_exponent:g}; at density "
                f"{self.density:g} the most frequent feature would have "
                f"{max(self.marginals):.3g}; lower one of them"
            )
        return self

    @model_validator(mode="after")
    def _co_occurrence_exists(self) -> Self:
        if self.co_occurrence is None:
            return self
        size, found = self.block_size, f"co_occurrence: found {self.co_occurrence:g}"
        if size > self.num_features:
            raise ValueError(
                f"block_size: found {size}; must not exceed num_features, which is "
                f"{self.num_features}"
            )
        for start in range(0, self.num_features - size + 1, size):
            block = self.marginals[start : start + size]
            apart = self.co_occurrence < max(block) and sum(block) > 1
            if size > PAIR and apart:
                raise ValueError(
                    f"{found}; in a block whose marginals sum to {sum(block):.3g} it "
                    f"is at least the largest of them, {max(block):.3g}"
                )
            lowest = (sum(block) - 1) / min(block)
            if size == PAIR and self.co_occurrence < lowest - 1e-12:
                raise ValueError(
                    f"{found}; at marginals {block[0]:.3g} and {block[1]:.3g} it is at "
                    f"least {lowest:.3g}"
                )
        return self
