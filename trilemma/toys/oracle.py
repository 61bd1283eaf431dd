"""Oracle SAEs: codes that read a toy's features off an activation, merged on demand.

They are what measures of polysemanticity are tested on, since how far they merge
concepts is known. A conjunctive merge gives a set of concepts that occur together a
latent of its own ("only i", "only j", "i and j"): it saves active latents and loses
nothing where magnitudes are equal. A disjunctive merge lets concepts share one latent:
it saves width and loses what they do not have in common.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from trilemma.metrics.coders import Coder

Atoms = tuple[tuple[int, ...], ...]
"""Sets of concepts, each of which has a latent."""
Merge = Literal["conjunctive", "disjunctive"]


@dataclass(frozen=True)
class Monosemantic:
    """The SAE with one latent for each feature, which fires where it is present.

    Exact where features are linearly independent; where there are more features than
    dimensions, `projection.Pursuit` stands in.
    """

    features: Float[Tensor, "num_features d_in"]
    b_dec: Float[Tensor, " d_in"]
    """What activations have besides features: the toy's bias."""
    threshold: float
    """Least magnitude that counts as presence; noise lies below it."""

    @property
    def W_dec(self) -> Float[Tensor, "num_features d_in"]:  # noqa: N802
        """Return the features."""
        return self.features

    def encode(
        self, x: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "batch num_features"]:
        """Return the magnitude of each feature."""
        magnitudes = (x - self.b_dec) @ self._inverse
        return torch.where(magnitudes > self.threshold, magnitudes, 0.0)

    def decode(
        self, acts: Float[Tensor, "batch num_features"]
    ) -> Float[Tensor, "batch d_in"]:
        """Return the sum of features."""
        return acts @ self.features + self.b_dec

    @functools.cached_property
    def _inverse(self) -> Float[Tensor, "d_in num_features"]:
        inverse: Tensor = torch.linalg.pinv(self.features.double())
        return inverse.to(self.features.dtype)


@dataclass(frozen=True)
class Conjunctive:
    """An SAE with a latent for each of several sets of concepts.

    A row's concepts are told by the fewest atoms that make them up without overlap;
    where none do, the row gets no latent at all. An atom has the mean magnitude of its
    concepts, which is the nearest for orthonormal features.
    """

    concepts: Coder
    """One latent a feature."""
    atoms: Atoms

    @functools.cached_property
    def W_dec(self) -> Float[Tensor, "atom d_in"]:  # noqa: N802
        """Return the sum of each atom's features."""
        return self._members @ self.concepts.W_dec

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch atom"]:
        """Return the latents of the fewest atoms."""
        magnitudes = self.concepts.encode(x)
        patterns, pattern = torch.unique(
            magnitudes != 0, dim=0, return_inverse=True, sorted=False
        )
        chosen = torch.zeros(len(patterns), len(self.atoms), dtype=torch.bool)
        for index, present in enumerate(patterns.cpu().tolist()):
            mask = sum(1 << concept for concept, on in enumerate(present) if on)
            chosen[index, list(self._cover(mask) or ())] = True
        values = magnitudes @ (self._members / self._members.sum(1, keepdim=True)).t()
        return torch.where(chosen.to(x.device)[pattern], values, 0.0)

    def decode(self, acts: Float[Tensor, "batch atom"]) -> Float[Tensor, "batch d_in"]:
        """Return the sum of atoms."""
        return self.concepts.decode(acts @ self._members)

    @functools.cached_property
    def _members(self) -> Float[Tensor, "atom num_features"]:
        return _membership(self.concepts, self.atoms)

    @functools.cached_property
    def _cover(self) -> "_Cover":
        return _Cover(self.atoms)


@dataclass(frozen=True)
class Disjunctive:
    """An SAE whose latents each stand for any of several concepts.

    A latent fires where one of its concepts is present, along the unit vector in the
    direction of their sum.
    """

    concepts: Coder
    """One latent a feature."""
    atoms: Atoms

    @functools.cached_property
    def W_dec(self) -> Float[Tensor, "atom d_in"]:  # noqa: N802
        """Return the direction of each atom."""
        return functional.normalize(self._members @ self.concepts.W_dec, dim=1)

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch atom"]:
        """Return each atom's share of what its own concepts add to the activation."""
        overlap = self._members * (self.W_dec @ self.concepts.W_dec.t())
        return self.concepts.encode(x) @ overlap.t()

    def decode(self, acts: Float[Tensor, "batch atom"]) -> Float[Tensor, "batch d_in"]:
        """Return the sum of directions."""
        nothing = torch.zeros(1, len(self.concepts.W_dec)).to(acts)
        return acts @ self.W_dec + self.concepts.decode(nothing)

    @functools.cached_property
    def _members(self) -> Float[Tensor, "atom num_features"]:
        return _membership(self.concepts, self.atoms)


@dataclass(frozen=True)
class Linear:
    """A code of either sign along unit directions of any kind, such as eigenvectors.

    Without a budget its directions are to be orthogonal; with a budget of one they
    may have any angle.
    """

    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, " d_in"]

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the inner product with each direction."""
        return (x - self.b_dec) @ self.W_dec.t()

    def decode(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        """Return the sum of directions."""
        return acts @ self.W_dec + self.b_dec


@dataclass(frozen=True)
class Budgeted:
    """A coder that keeps a row's k latents of largest contribution."""

    coder: Coder
    k: int

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # noqa: N802
        """Return the decoder of the coder."""
        return self.coder.W_dec

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Return the k latents; the others are zero."""
        acts = self.coder.encode(x)
        k = min(self.k, acts.shape[1])
        kept = (acts * self.W_dec.norm(dim=1)).abs().topk(k, dim=1).indices
        return torch.zeros_like(acts).scatter(1, kept, acts.gather(1, kept))

    def decode(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        """Return the reconstruction of the coder."""
        return self.coder.decode(acts)


def merged(
    concepts: Coder, pairs: Sequence[tuple[int, int]], fraction: float, kind: Merge
) -> Conjunctive | Disjunctive:
    """Return an SAE in which the first `fraction` of the pairs, rounded, is merged.

    Conjunctive, latents are all concepts and then the merged pairs; disjunctive, the
    concepts that no merged pair has and then the pairs.
    """
    taken = tuple(tuple(pair) for pair in pairs[: round(fraction * len(pairs))])
    num_features = len(concepts.W_dec)
    if kind == "conjunctive":
        return Conjunctive(concepts, (*singles(range(num_features)), *taken))
    within = {concept for pair in taken for concept in pair}
    alone = [concept for concept in range(num_features) if concept not in within]
    return Disjunctive(concepts, (*singles(alone), *taken))


def singles(concepts: Sequence[int]) -> Atoms:
    """Return an atom for each concept."""
    return tuple((concept,) for concept in concepts)


class _Cover:
    """The fewest disjoint atoms of a set of concepts, a bit mask, remembered."""

    def __init__(self, atoms: Atoms) -> None:
        self._masks = [sum(1 << concept for concept in atom) for atom in atoms]
        self._found: dict[int, tuple[int, ...] | None] = {
            mask: (index,) for index, mask in enumerate(self._masks)
        } | {0: ()}

    def __call__(self, concepts: int) -> tuple[int, ...] | None:
        """Return the indices of the atoms; None where no atoms make up the set."""
        if concepts not in self._found:
            lowest, best = concepts & -concepts, None
            for index, mask in enumerate(self._masks):
                if mask & lowest and mask & concepts == mask:
                    rest = self(concepts ^ mask)
                    if rest is not None and (best is None or len(rest) < len(best)):
                        best = (*rest, index)
            self._found[concepts] = best
        return self._found[concepts]


def _membership(concepts: Coder, atoms: Atoms) -> Float[Tensor, "atom num_features"]:
    members: Bool[Tensor, "atom num_features"]
    members = torch.zeros(len(atoms), len(concepts.W_dec), dtype=torch.bool)
    for index, atom in enumerate(atoms):
        members[index, list(atom)] = True
    return members.to(concepts.W_dec)
