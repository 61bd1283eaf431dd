import json
import sys

import pytest

from benchmarks import family
from benchmarks.family import Arguments

SMALL = Arguments("8,16,2,32", rounds=2, steps=3, threads=1, seed=0)


def test_both_sides_train_the_same_saes_for_as_long():
    found = family.results(SMALL)
    # At once, on a GPU, they agree to rounding.
    assert found["family"].fvus == pytest.approx(found["in turn"].fvus, rel=5e-2)
    assert len(set(found["family"].fvus)) == family.NUM_SAES
    assert all(len(each.seconds) == SMALL.rounds for each in found.values())


def test_the_last_line_says_how_many_times_as_fast_the_family_is(monkeypatch, capsys):
    words = "--shape 8,16,2,32 --rounds 2 --steps 3"
    monkeypatch.setattr(sys, "argv", ["family", *words.split()])
    family.main()
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last.keys() == {"family_vs_in_turn"}
    assert last["family_vs_in_turn"] > 0
