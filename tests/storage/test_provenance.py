"""Provenance: activations of one kind may meet, of two kinds never."""

import json

import pytest

from storage import provenance

LM = {
    "lm": {"kind": "hub", "id": "gpt2", "commit": "a" * 40},
    "lm_key": "0" * 16,
    "lm_dtype": "float32",
    "processing": "none",
    "tokenizer": "t" * 64,
    "corpus": {"kind": "hub"},
    "versions": {"torch": "2"},
}
TOY = {"toy": {"num_features": 8, "seed": 0, "num_tokens": 10, "ctx": 4}}


def origin(found=LM, hook="blocks.1.hook_resid_post", ctx=128, dtype="float32"):
    return provenance.origin(found, hook, ctx=ctx, dtype=dtype)


def test_origin_is_json_and_the_same_for_another_corpus():
    other = LM | {"corpus": {"kind": "text"}, "versions": {}, "lm_key": "1" * 16}
    assert origin(other) == json.loads(json.dumps(origin()))
    assert provenance.check_same("x", origin(), origin(other)) == []


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"found": LM | {"lm": LM["lm"] | {"commit": "b" * 40}}}, "lm.commit 'aaaa"),
        (
            {"found": LM | {"processing": "folded"}},
            "processing 'none' meet those of 'f",
        ),
        ({"found": LM | {"tokenizer": "u" * 64}}, "tokenizer 'tttt"),
        ({"hook": "blocks.2.hook_resid_post"}, "hook 'blocks.1.hook_resid_post' meet"),
        ({"ctx": 64}, "ctx 128 meet those of 64"),
        ({"found": TOY}, "toy.num_features unknown meet those of 8"),
    ],
)
def test_other_kind_is_refused_in_one_line(other, found):
    with pytest.raises(ValueError, match="use those of one kind") as caught:
        provenance.check_same("training topk", origin(), origin(**other))
    lines = str(caught.value).splitlines()
    assert all(line.startswith("training topk: activations of ") for line in lines)
    assert any(found in line for line in lines)


def test_every_disagreement_has_a_line():
    with pytest.raises(ValueError, match="ctx") as caught:
        provenance.check_same("x", origin(), origin(ctx=1, hook="b"))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"dtype": "int8"}, "x: activations of dtype 'float32' meet those of 'int8'"),
        ({"found": LM | {"lm_dtype": "bfloat16"}}, "lm_dtype 'float32' meet those of"),
    ],
)
def test_other_dtype_is_a_warning(other, found):
    (line,) = provenance.check_same("x", origin(), origin(**other))
    assert found in line


def test_toys_are_the_same_however_many_rows_are_drawn():
    more = {"toy": TOY["toy"] | {"num_tokens": 99}}
    assert provenance.check_same("x", origin(TOY), origin(more)) == []


def test_toys_of_other_features_are_refused():
    other = {"toy": TOY["toy"] | {"seed": 1}}
    with pytest.raises(ValueError, match=r"toy\.seed 0 meet those of 1"):
        provenance.check_same("x", origin(TOY), origin(other))
