"""Terms of the loss that any kind of SAE may have besides its own, a module each."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from trilemma.config.terms import Terms
from trilemma.kinds.kind import Batch, Forward, Weights
from trilemma.terms import end_to_end, incoherence, load_balance, monosemanticity
from trilemma.terms.end_to_end import Splice


class Term(NamedTuple):
    """A part of the loss."""

    coefficient: float
    """Its weight."""
    value: Callable[[Weights, Batch, Forward], Float[Tensor, ""]]


def make(
    config: Terms | None,
    encode_and_decode: Callable[[Weights, Batch], Forward],
    splice: Splice | None,
) -> tuple[Term, ...]:
    """Return what is added to a loss; weights of the input are no part of it.

    The latter two are the kind's, and what the end-to-end term needs.
    """
    if config is None:
        return ()
    found = []
    if config.incoherence is not None:
        found.append(Term(config.incoherence.coefficient, incoherence.value))
    if config.load_balance is not None:
        value = functools.partial(load_balance.value, config.load_balance.form)
        found.append(Term(config.load_balance.coefficient, value))
    if config.monosemanticity is not None:
        found.append(Term(config.monosemanticity.coefficient, monosemanticity.value))
    if config.end_to_end is not None:
        assert splice is not None, "the end-to-end term needs an LM"
        value = functools.partial(
            end_to_end.value, config.end_to_end.loss, encode_and_decode, splice
        )
        found.append(Term(config.end_to_end.coefficient, value))
    return tuple(found)
