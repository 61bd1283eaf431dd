"""What the terms of a loss need besides batches: statistics, first rows, the LM."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from storage.sequence_order import SequenceOrder
from storage.store import Store
from tasks import lm
from tasks.plan import Plan, Step
from trilemma.lm import LM
from trilemma.sequences import Sequences
from trilemma.start import Start
from trilemma.terms import input_weights
from trilemma.terms.end_to_end import Splice

_SAMPLE_SEQS = 32


class Needed(NamedTuple):
    """What one SAE's terms need; None for what they do not."""

    gamma: Tensor | None
    """Weights of the dimensions."""
    splice: Splice | None
    order: SequenceOrder | None
    """The sequences that are read beside batches."""

    def sequences(self, step: int, device: torch.device) -> Sequences | None:
        """Return what a step reads beside its batch."""
        if self.order is None:
            return None
        return Sequences(*(part.to(device) for part in self.order.batch(step)))


def load_lm(plan: Plan, steps: list[Step]) -> LM | None:
    """Return the LM, as it was harvested, if any of these SAEs trains on it."""
    if not any(plan.member(step.name).has_end_to_end for step in steps):
        return None
    assert plan.run.harvest is not None
    return lm.load(plan, dtype=plan.run.harvest.lm_dtype)


def needed(
    plan: Plan,
    step: Step,
    store: Store,
    *,
    starts: Mapping[str, Start],
    model: LM | None,
) -> Needed:
    """Return what the terms of an SAE need.

    Raises:
        ValueError: weights of the input cannot be had, or are not those planned; or
            the LM has no predictions to keep.
    """
    member = plan.member(step.name)
    hook, scale = member.target_hook, starts[member.target_hook].scale
    gamma = splice = order = None
    if member.terms is not None and member.terms.input_weights is not None:
        weights = member.terms.input_weights
        pinned = step.section["sae"]["terms"]["input_weights"].get("sha256")
        if input_weights.file_digest(weights) != pinned:
            raise ValueError(
                "terms.input_weights.path: the file has changed since this run was "
                "planned; run it again"
            )
        gamma = input_weights.gamma(
            weights,
            variance=store.variance(hook),
            scale=scale,
            sample=lambda num: _sample(store, hook, num),
        )
    if member.terms is not None and member.terms.end_to_end is not None:
        assert model is not None
        if not model.predicts_next:
            raise ValueError(
                "terms.end_to_end: found an LM that does not predict the next token; "
                "remove the term"
            )
        splice = Splice(model, hook, scale)
        order = SequenceOrder(
            store,
            hook,
            seed=plan.run.training.seed,
            batch_seqs=member.terms.end_to_end.batch_seqs,
        )
    return Needed(gamma, splice, order)


def _sample(store: Store, hook: str, num: int) -> input_weights.Sample:
    """Return the first rows that count: a sample, since sequences are shuffled."""
    x: list[Tensor] = []
    tokens: list[Tensor] = []
    for batch in store.sequences(hook, _SAMPLE_SEQS, limit=None):
        is_in = batch.mask == 0
        x.append(batch.x[is_in])
        tokens.append(batch.tokens[is_in])
        if sum(map(len, x)) >= num:
            break
    return input_weights.Sample(torch.cat(x)[:num], torch.cat(tokens)[:num])
