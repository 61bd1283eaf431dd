"""Toys: activations with known features, and SAEs that know these features too."""

from trilemma.toys.sampling import ToyRows, features, sample, token_text

__all__ = ["ToyRows", "features", "sample", "token_text"]
