"""The held-out text that explanations are fitted and scored on, with its context."""

import hashlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

EXPLAIN = 0
SCORE = 1
CALIBRATE = 2
SPLIT_NAMES = ("explain", "score", "calibrate")
NO_TOKEN = -1
"""Stands before the first token of a document, or of a row."""
BRACKETS = {"round": ("(", ")"), "square": ("[", "]"), "curly": ("{", "}")}
QUOTES = {"double": '"', "single": "'"}

_SALT = "explanation/split"
_TENTHS = (EXPLAIN,) * 5 + (SCORE,) * 4 + (CALIBRATE,)


class LeakedSplitError(ValueError):
    """A document is both explained from and scored on."""


class Occurrences(NamedTuple):
    """Every token, and the stretch of rows from which one looks back at it."""

    token: Int64[np.ndarray, "row"]
    """The token that stands there."""
    start: Int64[np.ndarray, "row"]
    """First row after it."""
    stop: Int64[np.ndarray, "row"]
    """End of the rows that see it as the latest one of its kind."""


def lay_out(
    tokens: Integer[np.ndarray, "seq pos"],
    *,
    document: Integer[np.ndarray, "seq pos"],
    mask: UInt8[np.ndarray, "seq pos"],
    token_text: Sequence[str],
) -> "Rows":
    """Return the rows of the sequences, split by a salted hash of their documents."""
    num_seqs, ctx = tokens.shape
    flat = document.reshape(-1).astype(np.int64)
    position = np.tile(np.arange(ctx), num_seqs)
    is_start = (position == 0) | (flat != np.roll(flat, 1))
    starts = np.flatnonzero(is_start)
    segment = np.cumsum(is_start) - 1
    stops = np.append(starts[1:], len(flat))
    documents, inverse = np.unique(flat, return_inverse=True)
    splits = np.array([split_of(int(each)) for each in documents], dtype=np.uint8)
    return Rows(
        token=tokens.reshape(-1).astype(np.int64),
        document=flat,
        is_counted=mask.reshape(-1) == 0,
        split=splits[inverse],
        start=starts[segment],
        stop=stops[segment],
        position=position,
        token_text=tuple(token_text),
    )


def split_of(document: int) -> int:
    """Return the split of a document: 5 in 10 explain, 4 score, 1 calibrates."""
    digest = hashlib.blake2b(f"{_SALT}/{document}".encode(), digest_size=8).digest()
    return _TENTHS[int.from_bytes(digest, "big") % 10]


@dataclass(frozen=True, repr=False)
class Rows:
    """Tokens laid end to end; a segment is one document's part of one sequence.

    Context never leaves a segment: a predicate sees the tokens before the current one
    in the same document and the same sequence, as the LM does within a document.
    """

    token: Int64[np.ndarray, "row"]
    document: Int64[np.ndarray, "row"]
    """Id of the document that the token belongs to."""
    is_counted: Bool[np.ndarray, "row"]
    """False for masked rows: they give context and are never judged."""
    split: UInt8[np.ndarray, "row"]
    """`EXPLAIN`, `SCORE` or `CALIBRATE`, the same for a whole document."""
    start: Int64[np.ndarray, "row"]
    """First row of the row's segment."""
    stop: Int64[np.ndarray, "row"]
    """End of the row's segment."""
    position: Int64[np.ndarray, "row"]
    """Place in the sequence, from 0."""
    token_text: tuple[str, ...]
    """What is shown for each token id."""

    def __repr__(self) -> str:
        """Return the counts that one wants to see."""
        return (
            f"Rows({len(self.token):,} tokens, {int(self.is_counted.sum()):,} counted, "
            f"{len(np.unique(self.document)):,} documents)"
        )

    def documents(self, split: int) -> frozenset[int]:
        """Return the documents with a row in a split."""
        return frozenset(np.unique(self.document[self.split == split]).tolist())

    def counted_in(self, split: int) -> Bool[np.ndarray, "row"]:
        """Return the rows of a split that are judged."""
        chosen: np.ndarray = self.is_counted & (self.split == split)
        return chosen

    def lagged(self, lag: int) -> Int64[np.ndarray, "row"]:
        """Return the token `lag` before each, or `NO_TOKEN`."""
        earlier = np.roll(self.token, lag)
        index = np.arange(len(self.token))
        return np.where(index - self.start >= lag, earlier, NO_TOKEN)

    @cached_property
    def document_position(self) -> Int64[np.ndarray, "row"]:
        """Return the place in the document, -1 if it began in an earlier sequence.

        A document that opens a sequence may have begun before it.
        """
        place = np.arange(len(self.token)) - self.start
        return np.where(self.position > place, place, NO_TOKEN)

    @cached_property
    def next_same(self) -> Int64[np.ndarray, "row"]:
        """Return the segment's next row with the same token, else the segment's end."""
        order = np.lexsort((self.token, self.start))
        here, there = order[:-1], order[1:]
        is_same = (self.token[here] == self.token[there]) & (
            self.start[here] == self.start[there]
        )
        following = self.stop.copy()
        following[here[is_same]] = there[is_same]
        return following

    def occurrences(self, window: int) -> Occurrences:
        """Return the rows at most `window` after each token, each row counted once.

        Where a token recurs, the rows after the later one are left to it; so the
        stretches of one token never overlap, and sums over them count rows.
        """
        index = np.arange(len(self.token))
        stop = np.minimum(index + window, self.next_same) + 1
        return Occurrences(self.token, index + 1, np.minimum(stop, self.stop))

    def ngrams(self, order: int) -> Int64[np.ndarray, "row"]:
        """Return a code, equal for equal runs of `order` tokens; -1 where cut short."""
        codes = self.token
        for lag in range(1, order):
            earlier = self.lagged(lag)
            pairs = (earlier + 1) * (int(codes.max(initial=0)) + 2) + codes + 1
            _, fresh = np.unique(pairs, return_inverse=True)
            codes = np.where(
                (earlier == NO_TOKEN) | (codes == NO_TOKEN), NO_TOKEN, fresh
            ).astype(np.int64)
        return codes

    @cached_property
    def bigrams(self) -> Int64[np.ndarray, "row"]:
        """Return a code for each row's last two tokens."""
        return self.ngrams(2)

    @cached_property
    def trigrams(self) -> Int64[np.ndarray, "row"]:
        """Return a code for each row's last three tokens."""
        return self.ngrams(3)

    @cached_property
    def depths(self) -> dict[str, Int64[np.ndarray, "row"]]:
        """Return how many brackets, or quotes, are open before each token.

        A closing bracket without its opening one, which stands in an earlier sequence,
        changes nothing. A quote is open after an odd number of quote marks.
        """
        depths = {
            name: self._open_brackets(opening, closing)
            for name, (opening, closing) in BRACKETS.items()
        }
        depths["any"] = np.sum(list(depths.values()), axis=0)
        for name, mark in QUOTES.items():
            marks = self._running(self._per_row(operator.methodcaller("count", mark)))
            depths[name] = marks % 2
        return depths

    def _open_brackets(self, opening: str, closing: str) -> np.ndarray:
        steps = self._per_row(lambda text: text.count(opening) - text.count(closing))
        running = self._running(steps)
        # A walk that is never let below zero is the walk minus its running minimum.
        # Each segment is lowered below all earlier ones, so one accumulation serves.
        segment = np.cumsum(self.start == np.arange(len(steps)))
        drop = (2 * int(np.abs(running).max(initial=0)) + 1) * segment
        lowest = np.minimum.accumulate(running - drop) + drop
        depth: np.ndarray = running - np.minimum(lowest, 0)
        return depth

    def _running(self, steps: np.ndarray) -> np.ndarray:
        """Return the sum of the steps of earlier rows of the segment."""
        before = np.cumsum(steps) - steps
        running: np.ndarray = before - before[self.start]
        return running

    def _per_row(self, count: Callable[[str], int]) -> np.ndarray:
        used, inverse = np.unique(self.token, return_inverse=True)
        counts = np.array([count(self.token_text[token]) for token in used])
        return counts.astype(np.int64)[inverse]
