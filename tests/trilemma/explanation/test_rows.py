"""Tests of the layout of text: splits, and the context of each token."""

import numpy as np
import pytest

from trilemma.explanation.rows import NO_TOKEN, Rows, lay_out, split_of


def small(tokens: list[list[int]], document: list[list[int]], text: str) -> Rows:
    return lay_out(
        np.array(tokens),
        document=np.array(document),
        mask=np.zeros_like(np.array(tokens), dtype=np.uint8),
        token_text=list(text),
    )


def test_splits_hold_about_five_four_and_one_tenths_of_documents() -> None:
    counts = np.bincount([split_of(document) for document in range(20_000)])
    np.testing.assert_allclose(counts / 20_000, [0.5, 0.4, 0.1], atol=0.015)


def test_a_document_lies_in_one_split(rows: Rows) -> None:
    sides = [rows.documents(split) for split in range(3)]
    assert sum(map(len, sides)) == len(np.unique(rows.document))


def test_masked_rows_are_not_counted(rows: Rows) -> None:
    assert not rows.is_counted[rows.position == 0].any()
    assert not rows.is_counted[rows.token == 0].any()


def test_context_never_leaves_a_document_or_a_sequence() -> None:
    rows = small([[1, 2, 3, 4], [5, 6, 7, 8]], [[0, 0, 1, 1], [1, 1, 1, 1]], "a" * 9)
    assert rows.lagged(1).tolist() == [-1, 1, -1, 3, -1, 5, 6, 7]
    assert rows.lagged(2).tolist() == [-1, -1, -1, -1, -1, -1, 5, 6]


def test_the_place_in_a_document_is_unknown_if_it_began_before_the_sequence() -> None:
    rows = small([[1, 2, 3, 4], [5, 6, 7, 8]], [[0, 0, 1, 1], [1, 1, 1, 1]], "a" * 9)
    assert rows.document_position.tolist() == [-1, -1, 0, 1, -1, -1, -1, -1]


@pytest.mark.parametrize("order", [2, 3])
def test_equal_ngrams_have_equal_codes(rows: Rows, order: int) -> None:
    codes = rows.ngrams(order)
    grams = list(zip(*(rows.lagged(lag).tolist() for lag in range(order)), strict=True))
    seen: dict[tuple[int, ...], int] = {}
    for gram, code in zip(grams, codes.tolist(), strict=True):
        if NO_TOKEN in gram:
            assert code == NO_TOKEN
        else:
            assert seen.setdefault(gram, code) == code
    assert len(set(seen.values())) == len(seen)


def test_brackets_open_before_a_token_are_counted_within_its_segment() -> None:
    rows = small([[2, 0, 1, 0, 2, 2, 2, 0, 1]], [[0] * 8 + [1]], "(x)")
    assert rows.depths["round"].tolist() == [0, 0, 1, 1, 2, 1, 0, 0, 0]
    assert rows.depths["any"].tolist() == [0, 0, 1, 1, 2, 1, 0, 0, 0]


def test_a_quote_is_open_after_an_odd_number_of_marks() -> None:
    rows = small([[1, 0, 1, 0, 1, 0]], [[0] * 5 + [1]], '"x')
    assert rows.depths["double"].tolist() == [0, 0, 1, 1, 0, 0]


def test_depth_equals_a_walk_that_stops_at_zero(rows: Rows) -> None:
    depth, expected = 0, []
    for index, token in enumerate(rows.token.tolist()):
        depth = 0 if rows.start[index] == index else depth
        expected.append(depth)
        text = rows.token_text[token]
        depth = max(depth + text.count("(") - text.count(")"), 0)
    assert rows.depths["round"].tolist() == expected


def test_the_repr_counts_tokens_and_documents(rows: Rows) -> None:
    assert repr(rows).startswith("Rows(30,720 tokens, ")
