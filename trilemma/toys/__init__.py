"""Toys: activations with known features, and SAEs that know these features too."""

from trilemma.toys.directions import bias, features
from trilemma.toys.sampling import ToyRows, active, sample, token_text

__all__ = ["ToyRows", "active", "bias", "features", "sample", "token_text"]
