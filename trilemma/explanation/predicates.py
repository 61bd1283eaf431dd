"""Predicates: what a latent might fire on, as rules that run and that read well."""

import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from trilemma.explanation.rows import NO_TOKEN, QUOTES, Rows

CHARACTER_CLASSES = {
    "digits": (re.compile(r"\s*\d+"), "a number"),
    "capital": (re.compile(r"\s*[A-Z].*", re.DOTALL), "text that starts in a capital"),
    "upper": (re.compile(r"\s*[A-Z]{2,}"), "all capitals"),
    "punctuation": (re.compile(r"\s*[^\w\s]+"), "punctuation"),
    "whitespace": (re.compile(r"\s+"), "white space"),
    "newline": (re.compile(r".*\n.*", re.DOTALL), "text with a line break"),
    "new word": (re.compile(r" [A-Za-z].*", re.DOTALL), "the start of a word"),
    "continuation": (re.compile(r"[a-z]+"), "lower-case letters inside a word"),
    "underscore": (re.compile(r".*_.*", re.DOTALL), "text with an underscore"),
    "non-ascii": (re.compile(r".*[^\x00-\x7f].*", re.DOTALL), "non-ASCII text"),
}
"""Names with the pattern that a token's whole text matches, and the words for it."""

POSITIONS = {"sequence": "position", "document": "position in the document"}

_PLACES = {0: "token", 1: "token after"}


class TokenSet(NamedTuple):
    """The current token, or the one `lag` before it, is one of a few."""

    lag: int
    tokens: tuple[int, ...]

    def holds(self, rows: Rows) -> Bool[np.ndarray, "row"]:
        """Return the rows on which it is true."""
        return np.isin(rows.lagged(self.lag), self.tokens)

    def text(self, token_text: tuple[str, ...]) -> str:
        """Return it in words."""
        names = _any_of([repr(token_text[token]) for token in self.tokens])
        return f"{_PLACES[self.lag]} {names}"


class Ngram(NamedTuple):
    """The current token and those just before it, oldest first."""

    tokens: tuple[int, ...]

    def holds(self, rows: Rows) -> Bool[np.ndarray, "row"]:
        """Return the rows on which it is true."""
        is_true = np.ones(len(rows.token), dtype=bool)
        for lag, token in enumerate(reversed(self.tokens)):
            is_true &= rows.lagged(lag) == token
        return is_true

    def text(self, token_text: tuple[str, ...]) -> str:
        """Return it in words."""
        *before, last = [repr(token_text[token]) for token in self.tokens]
        return f"token {last} right after {' '.join(before)}"


class Within(NamedTuple):
    """A token stands among the `window` tokens before the current one."""

    token: int
    window: int

    def holds(self, rows: Rows) -> Bool[np.ndarray, "row"]:
        """Return the rows on which it is true."""
        token, start, stop = rows.occurrences(self.window)
        is_it = token == self.token
        num_edges = len(rows.token) + 1
        began = np.bincount(start[is_it], minlength=num_edges)
        ended = np.bincount(stop[is_it], minlength=num_edges)
        is_true: np.ndarray = np.cumsum(began - ended)[:-1] > 0
        return is_true

    def text(self, token_text: tuple[str, ...]) -> str:
        """Return it in words."""
        return f"any token at most {self.window} after {token_text[self.token]!r}"


class Position(NamedTuple):
    """The place in the sequence, or in the document, lies in a range."""

    of: str
    """`sequence` or `document`."""
    low: int
    """First place, counted from 0."""
    stop: int | None
    """End of the range; None where it is open."""

    def holds(self, rows: Rows) -> Bool[np.ndarray, "row"]:
        """Return the rows on which it is true."""
        place = rows.position if self.of == "sequence" else rows.document_position
        is_true: np.ndarray = (place != NO_TOKEN) & (place >= self.low)
        return is_true if self.stop is None else is_true & (place < self.stop)

    def text(self, token_text: tuple[str, ...]) -> str:
        """Return it in words."""
        if self.stop is None:
            span = f"{self.low} or later"
        elif self.stop == self.low + 1:
            span = f"{self.low}"
        else:
            span = f"{self.low} to {self.stop - 1}"
        return f"{POSITIONS[self.of]} {span}"


class Character(NamedTuple):
    """The current token, or the one `lag` before it, is of a kind of text."""

    lag: int
    name: str
    """A key of `CHARACTER_CLASSES`."""

    def holds(self, rows: Rows) -> Bool[np.ndarray, "row"]:
        """Return the rows on which it is true."""
        pattern, _ = CHARACTER_CLASSES[self.name]
        used, inverse = np.unique(rows.token, return_inverse=True)
        matches: np.ndarray = np.array(
            [pattern.fullmatch(rows.token_text[token]) is not None for token in used]
        )[inverse]
        is_there = np.arange(len(matches)) - rows.start >= self.lag
        is_true: np.ndarray = np.roll(matches, self.lag) & is_there
        return is_true

    def text(self, token_text: tuple[str, ...]) -> str:
        """Return it in words."""
        return f"{_PLACES[self.lag]} {CHARACTER_CLASSES[self.name][1]}"


class Depth(NamedTuple):
    """The current token stands inside brackets or quotes."""

    name: str
    """A kind of bracket, `any` of them, or a kind of quote."""
    depth: int
    """Fewest that are open before it."""

    def holds(self, rows: Rows) -> Bool[np.ndarray, "row"]:
        """Return the rows on which it is true."""
        is_true: np.ndarray = rows.depths[self.name] >= self.depth
        return is_true

    def text(self, token_text: tuple[str, ...]) -> str:
        """Return it in words."""
        if self.name in QUOTES:
            return f"inside {self.name} quotes"
        kind = "brackets" if self.name == "any" else f"{self.name} brackets"
        return f"inside {kind}" + (f", {self.depth} deep" if self.depth > 1 else "")


Term = TokenSet | Ngram | Within | Position | Character | Depth


class Predicate(NamedTuple):
    """Terms joined by `or`, the one that says most first."""

    terms: tuple[Term, ...]

    def holds(self, rows: Rows) -> Bool[np.ndarray, "row"]:
        """Return the rows on which any term is true; none without terms."""
        is_true = np.zeros(len(rows.token), dtype=bool)
        for term in self.terms:
            is_true |= term.holds(rows)
        return is_true

    def text(self, token_text: tuple[str, ...]) -> str:
        """Return the explanation as a phrase."""
        return "; or ".join(term.text(token_text) for term in self.terms)

    def as_dicts(self, token_text: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return each term as JSON: its kind, its fields (of any type), its words."""
        return [
            {
                "kind": type(term).__name__,
                **term._asdict(),
                "text": term.text(token_text),
            }
            for term in self.terms
        ]


def _any_of(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} or {names[-1]}"
