"""What a report is made of: plain values, as the stages before it left them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trilemma.config import joint
from trilemma.metrics.scalar import Scalar

# Any: these mappings are JSON that other stages wrote; their scalars are parsed here.
Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class MemberReport:
    """One SAE of the family, with all that was measured and explained."""

    name: str
    """Shown to people; unique in the report."""
    slug: str
    """Folder of its latents' pages; lower-case letters, digits, `.`, `_` and `-`."""
    is_control: bool
    """True for the frozen-random SAE."""
    config: Json
    metrics: Mapping[str, Json]
    """Each metric's scalar, as its `_asdict()`."""
    controls: Mapping[str, Mapping[str, Json]]
    """`pca` at this SAE's rate, `frozen_random` at its l0 and, of a toy, `monosemantic`
    there too; each as metrics are."""
    latents: Mapping[str, Sequence[Any]]
    """Columns of equal length, one row for each latent; read them with `column`."""
    explanations: Sequence[Json]
    """One entry for each latent that was sampled for explanation."""
    rate_curve: Mapping[str, Sequence[float]]
    """Bin widths, and rate and fvu at each; see `trilemma.metrics.rate_curve`."""
    parts: Mapping[str, np.ndarray]
    """Sums over documents, to pair SAEs by; see `trilemma.metrics.parts`."""
    curve: Sequence[Json]
    """Rows of the training curve; empty for an SAE that was not trained here."""
    planted: Sequence[Json] = ()
    """How each measure of polysemanticity follows merges planted in this SAE."""
    shared: Sequence[Json] = ()
    """Clusters that occur together most, and the latents that merge them."""

    def __post_init__(self) -> None:
        """Check what makes paths and rows."""
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.slug), self.slug
        assert len({len(column) for column in self.latents.values()}) <= 1, self.name

    @property
    def kind(self) -> str:
        """Return the kind of SAE, such as `topk`."""
        return str(self.config["kind"])

    @property
    def target(self) -> str:
        """Return the hook whose activations it reconstructs."""
        return str(self.config.get("target_hook") or self._hook)

    @property
    def is_transcoder(self) -> bool:
        """Return whether it reconstructs another hook than it reads."""
        return self.config.get("target_hook") is not None

    @property
    def path(self) -> str:
        """Return its hook, or where a transcoder reads, what it predicts and how."""
        if not self.is_transcoder:
            return self.target
        skip = ", skip" if self.config.get("skip") else ""
        return f"{self._hook} -> {self.target}{skip}"

    @property
    def crosscoded(self) -> tuple[str, ...]:
        """Return the hooks that a crosscoder reads; none of any other SAE."""
        hooks = joint.parts(self._hook)
        return hooks if len(hooks) > 1 else ()

    @property
    def num_latents(self) -> int:
        """Return how many rows the columns of latents have."""
        return len(next(iter(self.latents.values()), ()))

    def column(self, name: str) -> list[Any]:
        """Return a column of latents, None where a value is absent or undefined."""
        values = self.latents.get(name, [None] * self.num_latents)
        return [
            None if isinstance(value, float) and math.isnan(value) else value
            for value in values
        ]

    @property
    def _hook(self) -> str:
        """Return what it reads, joint hooks by their one name."""
        hook = self.config.get("hook", "")
        return joint.name(hook if isinstance(hook, str) else tuple(hook))

    def scalars(self) -> dict[str, Scalar]:
        """Return this SAE's own metrics."""
        return {name: Scalar(**value) for name, value in self.metrics.items()}

    def control(self, name: str) -> dict[str, Scalar]:
        """Return the metrics of one of its controls; empty if it has none such."""
        return {key: Scalar(**v) for key, v in self.controls.get(name, {}).items()}


@dataclass(frozen=True, kw_only=True)
class Report:
    """A family of SAEs over the same activations, ready to be written as pages."""

    name: str
    """Name of the run."""
    title: str
    facts: tuple[tuple[str, str], ...]
    """(label, text): the LM, the corpus, the store, the versions."""
    caution: str | None
    """A warning that stands at the top of the report."""
    members: tuple[MemberReport, ...]
    has_features: bool
    """True for a toy, whose true features are known."""
    splits: tuple[Json, ...] = ()
    """What latents became in wider SAEs: `narrow`, `wide`, `metrics`, `most_split`."""

    def __post_init__(self) -> None:
        """Check that no two members share a folder."""
        assert len({member.slug for member in self.members}) == len(self.members)
