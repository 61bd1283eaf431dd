"""Candidate terms, and the one of each family that raises F1 most."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from scipy import special

from trilemma.explanation.predicates import (
    CHARACTER_CLASSES,
    Character,
    Depth,
    Ngram,
    Position,
    Term,
    TokenSet,
    Within,
)
from trilemma.explanation.rows import (
    BRACKETS,
    EXPLAIN,
    NO_TOKEN,
    QUOTES,
    Occurrences,
    Rows,
)

MAX_SET = 8
"""Largest number of tokens in a set."""
WINDOWS = (8, 16, 32)
"""How far back a term looks for a token."""
MIN_ODDS_RATIO = 2
"""A code must double the odds of firing, else a term on it says little but `always`."""
CHANCE = 0.01
"""Largest probability that chance alone brings any code of a family this far."""

_EDGES = (*range(33), 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_DEPTHS = (1, 2, 3)


class Counts(NamedTuple):
    """What a list of terms gets right and wrong, and what is left to get."""

    hits: int
    """Firing rows on which the list is true."""
    predicted: int
    """Rows on which the list is true."""
    firings: int
    """All firing rows."""
    rows: int
    """All rows."""

    @property
    def f1(self) -> float:
        """Return 2 TP / (2 TP + FP + FN), 0 where nothing is predicted."""
        return 2 * self.hits / max(self.predicted + self.firings, 1)

    def joined(self, hits: int, predicted: int) -> "Counts":
        """Return the counts once a term has added its own rows."""
        return self._replace(
            hits=self.hits + hits, predicted=self.predicted + predicted
        )


class Candidate(NamedTuple):
    """A term, and the counts of the list with it."""

    term: Term
    counts: Counts


class Tally(NamedTuple):
    """For each value of a code: the rows that a term on it would add."""

    hits: Int64[np.ndarray, "code"]
    predicted: Int64[np.ndarray, "code"]


class Candidates:
    """The terms that the explain split allows, ready to be counted for any latent."""

    def __init__(self, rows: Rows) -> None:
        """Compute what does not depend on a latent."""
        chosen = rows.counted_in(EXPLAIN)
        self._rows = rows
        self._index = np.flatnonzero(chosen)
        self._lags = {lag: rows.lagged(lag)[chosen] for lag in (0, 1)}
        self._ngrams = {2: rows.bigrams[chosen], 3: rows.trigrams[chosen]}
        self._places = {
            "sequence": rows.position[chosen],
            "document": rows.document_position[chosen],
        }
        terms: list[Term] = [
            Character(lag, name) for lag in (0, 1) for name in CHARACTER_CLASSES
        ]
        terms += [Depth(name, d) for name in ("any", *BRACKETS) for d in _DEPTHS]
        terms += [Depth(name, 1) for name in QUOTES]
        self._terms = terms
        self._truth = np.stack([term.holds(rows)[chosen] for term in terms])
        self._occurrences = {w: rows.occurrences(w) for w in WINDOWS}

    def best(
        self,
        fired: Bool[np.ndarray, "row"],
        covered: Bool[np.ndarray, "row"],
        *,
        counts: Counts,
    ) -> Candidate | None:
        """Return the term that raises F1 most, the simplest of equals, or None.

        `fired` and `covered` (by earlier terms) run over all rows; what lies outside
        the explain split is not looked at. `counts` are those of the earlier terms.
        """
        best = None
        for candidate in self.families(fired, covered, counts=counts):
            if best is None or candidate.counts.f1 > best.counts.f1:
                best = candidate
        return best

    def families(
        self,
        fired: Bool[np.ndarray, "row"],
        covered: Bool[np.ndarray, "row"],
        *,
        counts: Counts,
    ) -> Iterator[Candidate]:
        """Yield each family's best term that raises F1, simple families first."""
        is_open = ~covered[self._index]
        is_hit = is_open & fired[self._index]
        for lag, tokens in self._lags.items():
            tally = _tally(tokens, is_open, is_hit)
            found = best_set(tally, counts=counts, size=MAX_SET)
            if found is not None:
                yield Candidate(TokenSet(lag, found.members), found.counts)

        found = best_set(self._kinds(is_open, is_hit), counts=counts, size=1)
        if found is not None:
            yield Candidate(self._terms[found.members[0]], found.counts)

        for of, places in self._places.items():
            yield from _best_range(of, _tally(places, is_open, is_hit), counts=counts)

        for order, codes in self._ngrams.items():
            found = best_set(_tally(codes, is_open, is_hit), counts=counts, size=1)
            if found is not None:
                term = self._ngram(order, found.members[0])
                yield Candidate(term, found.counts)

        sums = Tally(self._sums(is_hit), self._sums(is_open))
        for window, occurrences in self._occurrences.items():
            found = best_set(_seen(occurrences, sums), counts=counts, size=1)
            if found is not None:
                yield Candidate(Within(found.members[0], window), found.counts)

    def _kinds(self, is_open: np.ndarray, is_hit: np.ndarray) -> Tally:
        return Tally(
            np.count_nonzero(self._truth & is_hit, axis=1),
            np.count_nonzero(self._truth & is_open, axis=1),
        )

    def _ngram(self, order: int, code: int) -> Ngram:
        row = self._index[np.argmax(self._ngrams[order] == code)]
        return Ngram(tuple(self._rows.token[row - order + 1 : row + 1].tolist()))

    def _sums(self, is_true: np.ndarray) -> np.ndarray:
        """Return how many of the rows before each row are true, and of all."""
        steps = np.zeros(len(self._rows.token) + 1, dtype=np.int64)
        steps[self._index + 1] = is_true
        return np.cumsum(steps)


class BestSet(NamedTuple):
    """Codes that one term joins, and the counts of the list with it."""

    members: tuple[int, ...]
    """Most useful first."""
    counts: Counts


def best_set(tally: Tally, *, counts: Counts, size: int) -> BestSet | None:
    """Return the at most `size` codes that together give the highest F1, if any helps.

    F1 is a ratio of two sums over the codes, so the best codes at a given F1 are those
    with the largest 2 TP - F1 (TP + FP); repeated until F1 stands still, this is exact
    (Dinkelbach 1967, On nonlinear fractional programming, section 3).
    """
    eligible = np.flatnonzero(is_informative(tally, counts=counts))
    hits, predicted = tally.hits[eligible], tally.predicted[eligible]
    best = None
    f1 = counts.f1
    while True:
        gain = 2 * hits - f1 * predicted
        order = np.argsort(-gain, kind="stable")[:size]
        order = order[gain[order] > 0]
        joined = counts.joined(int(hits[order].sum()), int(predicted[order].sum()))
        if not joined.f1 > f1:
            return best
        f1 = joined.f1
        best = BestSet(tuple(eligible[order].tolist()), joined)


def is_informative(tally: Tally, *, counts: Counts) -> Bool[np.ndarray, "code"]:
    """Return the codes on which a latent fires more often than on the other open rows.

    The odds must be `MIN_ODDS_RATIO` times as high, and chance excluded: h hits in n
    rows at rate p happen with probability at most exp(-n KL(h/n || p)) (Hoeffding 1963,
    Probability inequalities for sums of bounded random variables, theorem 1), which is
    multiplied by the number of codes that were looked at.
    """
    hits, misses = tally.hits, tally.predicted - tally.hits
    firing = counts.firings - counts.hits
    num_open = counts.rows - counts.predicted
    rate = firing / max(num_open, 1)
    evidence = special.rel_entr(hits, tally.predicted * rate) + special.rel_entr(
        misses, tally.predicted * (1 - rate)
    )
    num_codes = max(int(np.count_nonzero(tally.predicted)), 1)
    is_likelier = hits * (num_open - firing) >= MIN_ODDS_RATIO * misses * firing
    informative: np.ndarray = (
        is_likelier & (hits > 0) & (evidence > math.log(num_codes / CHANCE))
    )
    return informative


def _best_range(of: str, tally: Tally, *, counts: Counts) -> Iterator[Candidate]:
    """Yield the best range of places between two edges, the last one open."""
    num_places = len(tally.hits)
    edges = np.array([edge for edge in _EDGES if edge < num_places] + [num_places])
    low, stop = np.triu_indices(len(edges), k=1)
    ranges = Tally(
        *(
            np.append(0, np.cumsum(column))[edges][stop]
            - np.append(0, np.cumsum(column))[edges][low]
            for column in tally
        )
    )
    found = best_set(ranges, counts=counts, size=1)
    if found is not None:
        index = found.members[0]
        end = int(edges[stop[index]])
        yield Candidate(
            Position(of, int(edges[low[index]]), None if end == num_places else end),
            found.counts,
        )


def _tally(codes: np.ndarray, is_open: np.ndarray, is_hit: np.ndarray) -> Tally:
    """Return the sums for each code; rows without one (-1) are left out."""
    num_codes = int(codes.max(initial=-1)) + 1
    return Tally(
        *(
            np.bincount(codes[chosen & (codes != NO_TOKEN)], minlength=num_codes)
            for chosen in (is_hit, is_open)
        )
    )


def _seen(occurrences: Occurrences, sums: Tally) -> Tally:
    """Return for each token the rows that see it within a window."""
    return Tally(
        *(
            np.bincount(
                occurrences.token,
                weights=column[occurrences.stop] - column[occurrences.start],
            ).astype(np.int64)
            for column in sums
        )
    )
