"""Tests of predicates: each kind of term against a plain loop, and its words."""

import re

import numpy as np
import pytest

from trilemma.explanation.predicates import (
    Character,
    Depth,
    Ngram,
    Position,
    Predicate,
    Term,
    TokenSet,
    Within,
)
from trilemma.explanation.rows import Rows


def reference(term: Term, rows: Rows, index: int) -> bool:
    """Return whether a term holds on a row, looking only at the text before it."""
    before: list[int] = rows.token[rows.start[index] : index + 1].tolist()[::-1]
    shown = [rows.token_text[token] for token in before]
    in_document = len(before) - 1 if rows.start[index] % 64 else -1
    is_true = False
    match term:
        case TokenSet(lag, tokens):
            is_true = len(before) > lag and before[lag] in tokens
        case Ngram(tokens):
            is_true = before[: len(tokens)][::-1] == list(tokens)
        case Within(token, window):
            is_true = token in before[1 : window + 1]
        case Position(of, low, stop):
            place = index % 64 if of == "sequence" else in_document
            is_true = low <= place < (10**9 if stop is None else stop)
        case Character(lag, "digits"):
            is_true = bool(re.fullmatch(r"\s*\d+", (*shown, "", "")[lag]))
        case Depth("double", _):
            is_true = "".join(shown[1:]).count('"') % 2 == 1
    return is_true


@pytest.mark.parametrize(
    "term",
    [
        TokenSet(0, (3, 5)),
        TokenSet(1, (2,)),
        Ngram((1, 2)),
        Ngram((1, 2, 1)),
        Within(4, 8),
        Within(1, 32),
        Position("sequence", 2, 5),
        Position("sequence", 60, None),
        Position("document", 0, 1),
        Character(0, "digits"),
        Character(1, "digits"),
        Depth("double", 1),
    ],
)
def test_a_term_holds_where_a_plain_loop_says_so(term: Term, rows: Rows) -> None:
    expected = [reference(term, rows, index) for index in range(len(rows.token))]
    assert 0 < sum(expected) < len(expected)
    np.testing.assert_array_equal(term.holds(rows), expected)


@pytest.mark.parametrize(
    ("term", "words"),
    [
        (TokenSet(0, (1,)), "token ' wab'"),
        (TokenSet(0, (1, 2, 48)), r"token ' wab', ' wac' or '\n'"),
        (TokenSet(1, (1, 2)), "token after ' wab' or ' wac'"),
        (Ngram((1, 2)), "token ' wac' right after ' wab'"),
        (Within(1, 16), "any token at most 16 after ' wab'"),
        (Position("sequence", 3, 4), "position 3"),
        (Position("sequence", 3, 6), "position 3 to 5"),
        (Position("document", 3, None), "position in the document 3 or later"),
        (Character(0, "digits"), "token a number"),
        (Character(1, "newline"), "token after text with a line break"),
        (Depth("any", 2), "inside brackets, 2 deep"),
        (Depth("square", 1), "inside square brackets"),
        (Depth("double", 1), "inside double quotes"),
    ],
)
def test_a_term_reads_as_words(term: Term, words: str, rows: Rows) -> None:
    assert term.text(rows.token_text) == words


def test_a_predicate_is_true_where_any_term_is(rows: Rows) -> None:
    first, second = TokenSet(0, (3,)), Position("sequence", 5, 6)
    np.testing.assert_array_equal(
        Predicate((first, second)).holds(rows), first.holds(rows) | second.holds(rows)
    )


def test_a_predicate_without_terms_is_never_true(rows: Rows) -> None:
    assert not Predicate(()).holds(rows).any()


def test_terms_as_json_carry_their_kind_and_words(rows: Rows) -> None:
    predicate = Predicate((Within(1, 16), TokenSet(0, (2,))))
    assert predicate.as_dicts(rows.token_text)[0] == {
        "kind": "Within",
        "token": 1,
        "window": 16,
        "text": "any token at most 16 after ' wab'",
    }
    assert predicate.text(rows.token_text) == (
        "any token at most 16 after ' wab'; or token ' wac'"
    )
