"""Explainers: from the evidence of a latent to an explanation of when it fires."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from trilemma.explanation.candidates import Candidates, Counts
from trilemma.explanation.evidence import Evidence
from trilemma.explanation.predicates import Predicate, Term
from trilemma.explanation.rows import EXPLAIN


class Explanation(NamedTuple):
    """When a latent is said to fire."""

    text: str | None
    """A phrase; None where nothing was found."""
    predicate: Predicate | None
    """The rule behind the text, where the explainer writes rules."""
    documents: frozenset[int]
    """Ids of the documents that it was made from; none of them may score it."""


@runtime_checkable
class Explainer(Protocol):
    """Anything that explains a latent from its evidence."""

    def explain(self, evidence: Evidence) -> Explanation:
        """Return when the latent fires, from its explain split alone."""
        ...


class PredicateExplainer:
    """Writes a short list of executable terms, joined by `or`, by greedy search.

    Each term is the one that raises F1 most on every unmasked row of the explain
    split, so at the latent's true rate of firing. A term is kept if F1 rises by more
    than `min_gain`.
    """

    def __init__(
        self, candidates: Candidates, *, max_terms: int, min_gain: float
    ) -> None:
        """Hold the candidate terms of a text, which serve all of its latents."""
        self._candidates = candidates
        self._max_terms = max_terms
        self._min_gain = min_gain

    def explain(self, evidence: Evidence) -> Explanation:
        """Return the predicate found on the explain split."""
        rows = evidence.rows
        fired = evidence.acts > 0
        chosen = rows.counted_in(EXPLAIN)
        counts = Counts(0, 0, int(fired[chosen].sum()), int(chosen.sum()))
        covered = np.zeros(len(fired), dtype=bool)
        terms: list[Term] = []
        while len(terms) < self._max_terms:
            found = self._candidates.best(fired, covered, counts=counts)
            if found is None or found.counts.f1 - counts.f1 <= self._min_gain:
                break
            terms.append(found.term)
            counts = found.counts
            covered |= found.term.holds(rows)
        predicate = Predicate(tuple(terms))
        text = predicate.text(rows.token_text) if terms else None
        return Explanation(text, predicate, rows.documents(EXPLAIN))
