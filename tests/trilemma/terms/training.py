"""Train small SAEs with terms."""

from typing import Any

from torch import Tensor

from tests.trilemma.kinds.samples import BATCH, CONFIGS, SHARED, rows, start_of
from trilemma.config.terms import Terms
from trilemma.training import Member

STEPS = 200


def member(
    kind: str,
    terms: Terms | None,
    x: Tensor,
    *,
    num_steps: int = STEPS,
    changes: dict[str, Any] | None = None,
    **needed: Any,
) -> Member:
    """Return a sample of a kind with terms; `needed` goes to `Member` (hence `Any`)."""
    config = CONFIGS[kind].model_copy(update={"terms": terms} | (changes or {}))
    return Member(
        config,
        SHARED,
        start=start_of(x),
        num_steps=num_steps,
        key="one",
        device="cpu",
        **needed,
    )


def trained(
    kind: str, terms: Terms | None, *, gamma: Tensor | None = None, **changes: Any
) -> Member:
    """Return it after some passes over a few batches."""
    x = rows(8 * BATCH)
    one = member(kind, terms, x, changes=changes, gamma=gamma)
    for step in range(STEPS):
        first = step % 8 * BATCH
        one.step(x[first : first + BATCH])
    return one
