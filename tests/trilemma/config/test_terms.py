"""What the terms of a loss refuse, each in one line, and how they name an SAE."""

import pytest

from trilemma import config

TOY = "configs/toy.yaml"
LOCAL = "configs/local-model.yaml"
TERMS = "saes.0.terms="


def line(*words, profile=TOY):
    with pytest.raises(config.ProfileError) as caught:
        config.load(profile, words)
    return str(caught.value)


def names(*words):
    return [member.name for member in config.load(TOY, words).family()]


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("saes.0.terms={}", "saes.0.terms: found none of them; name one, or remove it"),
        (
            "saes.0.terms.incoherence={coefficient: 0}",
            "saes.0.terms.incoherence.coefficient: found 0; input should be greater "
            "than 0",
        ),
        (
            "saes.0.terms.incoherence={}",
            "saes.0.terms.incoherence.coefficient: missing; it has no default",
        ),
        (
            "saes.0.terms.incohrence={coefficient: 1}",
            "saes.0.terms.incohrence: is not a key; did you mean incoherence?",
        ),
        (
            "saes.0.terms.input_weights={kind: given}",
            "saes.0.terms.input_weights: values, path: found neither; name exactly one "
            "of them",
        ),
        (
            "saes.0.terms.input_weights={kind: given, values: [1], path: a.npy}",
            "saes.0.terms.input_weights: values, path: found both; name exactly one of "
            "them",
        ),
        (
            "saes.0.terms.input_weights={kind: variance, num_rows: 9}",
            "saes.0.terms.input_weights.num_rows: is not a key; remove it",
        ),
        (
            "saes.0.terms.end_to_end={coefficient: 1}",
            "saes: found terms.end_to_end in 'topk-k3-end_to_end_1.0'; it needs an lm "
            "and a corpus that it reads, no toy and no cache",
        ),
        (
            "grid={terms: [{incoherence: {coefficient: 0}}]}",
            "grid: found {'terms': {'incoherence': {'coefficient': 0}}}; Input should "
            "be greater than 0",
        ),
    ],
)
def test_terms_that_do_not_fit_are_one_line(word, wanted):
    assert line(word) == wanted


@pytest.mark.parametrize("term", ["incoherence", "load_balance"])
def test_terms_between_latents_are_refused_of_a_single_one(term):
    word = (
        f"saes.0={{kind: topk, d_sae: 1, k: 1, terms: {{{term}: {{coefficient: 1}}}}}}"
    )
    assert line(word) == (
        f"saes.0.terms.{term}: has no effect on a single latent; remove it"
    )


def test_incoherence_of_a_frozen_decoder_is_refused():
    words = ("saes.0.freeze_decoder=true", "saes.0.terms.incoherence={coefficient: 1}")
    assert line(*words) == (
        "saes.0.terms.incoherence: has no effect beside freeze_decoder; remove one of "
        "them"
    )


def test_end_to_end_on_a_cache_is_refused():
    words = (
        "corpus={kind: saelens_cache, path: /c}",
        "saes.0.terms.end_to_end={coefficient: 1}",
    )
    assert "no toy and no cache" in line(*words, profile=LOCAL)


def test_end_to_end_on_text_is_taken():
    run = config.load(LOCAL, ("saes.0.terms.end_to_end={coefficient: 1}",))
    assert [m.has_end_to_end for m in run.family()][:2] == [True, False]


def test_terms_are_part_of_a_name_where_they_vary():
    terms = (
        "{input_weights: {kind: variance}}",
        "{input_weights: {kind: given, path: /Big File.npy}}",
        "{load_balance: {coefficient: 0.1, form: switch}, "
        "incoherence: {coefficient: 1}}",
        "null",
    )
    found = names(f"grid={{terms: [{', '.join(terms)}]}}")
    assert found[0] == "topk-k3-input_weights_variance"
    assert found[1].startswith("topk-k3-input_weights_given_")
    assert found[2:4] == ["topk-k3-incoherence_1.0-load_balance_0.1_switch", "topk-k3"]
    assert all(name == name.lower() and " " not in name for name in found)


def test_terms_that_all_saes_share_are_part_of_no_name():
    word = "grid={terms: [{incoherence: {coefficient: 0.1}}]}"
    assert names(word)[0] == "topk-k3"


def test_where_a_file_lies_is_not_recorded():
    word = "{input_weights: {kind: given, path: /a.npy}}"
    (sae, *_) = config.load(TOY, (TERMS + word,)).saes
    assert "/a.npy" not in str(sae.recorded())
    assert sae.recorded()["terms"]["input_weights"]["kind"] == "given"
