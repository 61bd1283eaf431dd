"""Tests of kinds of tokens."""

import pytest

from trilemma.metrics import token_kinds


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" \n", "whitespace"),
        (" 42", "digits"),
        ("):", "punctuation"),
        ("é", "non-ascii"),
        (" Paris", "capital"),
        (" the", "new word"),
        ("ing", "continuation"),
        ("_x1", "other"),
        ("", "other"),
    ],
)
def test_a_token_is_of_the_first_kind_that_it_fits(text: str, kind: str) -> None:
    assert token_kinds.KINDS[token_kinds.of_vocabulary([text])[0]] == kind
