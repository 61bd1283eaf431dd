"""What transcoders refuse, each in one line; their names, controls and records."""

import pytest

from trilemma import config

TOY, LOCAL = "configs/toy.yaml", "configs/local-model.yaml"
HOOKS = "harvest.hooks=[a, b, c]"
SAE = "{kind: topk, d_sae: 8, k: 2, hook: a}"
TRANSCODER = "{kind: topk, d_sae: 8, k: 2, hook: a, target_hook: b}"


def line(*words, profile=LOCAL):
    with pytest.raises(config.ProfileError) as caught:
        config.load(profile, words)
    return str(caught.value)


def loaded(*saes):
    return config.load(LOCAL, (HOOKS, f"saes=[{', '.join(saes)}]", "grid={}"))


@pytest.mark.parametrize("target", ["a", "d"])
def test_target_that_is_not_another_harvested_hook_is_refused(target):
    found = f"{{kind: topk, d_sae: 8, k: 2, hook: a, target_hook: {target}}}"
    assert line(HOOKS, f"saes=[{found}]", "grid={}") == (
        f"saes.0.target_hook: found {target!r}; it must be harvested, and another than "
        "its hook 'a': name one of b, c"
    )


def test_what_is_refused_has_the_profiles_own_index():
    for wrong in ("hook: d", "hook: a, target_hook: d"):
        bad = f"{{kind: topk, d_sae: 8, k: 2, {wrong}}}"
        said = line(HOOKS, f"saes=[{SAE}, {bad}]", "grid={k: [1, 2]}")
        assert said.startswith("saes.1.")


def test_target_of_a_toy_is_refused():
    assert line("saes.0.target_hook=mlp", profile=TOY) == (
        "saes.0.target_hook: found 'mlp'; it must be harvested, and another than its "
        "hook 'toy': remove it"
    )


def test_target_of_a_published_sae_is_checked_too():
    word = "saes=[{kind: pretrained, path: /p, hook: a, target_hook: a}]"
    assert "saes.0.target_hook: found 'a'; it must be" in line(
        HOOKS, word, "grid={}", "control.d_sae=8"
    )


def test_a_target_and_a_skip_are_part_of_a_name_where_they_vary():
    skipping = TRANSCODER.replace("}", ", skip: true}")
    names = [m.name for m in loaded(SAE, TRANSCODER, skipping).family()]
    assert names[:3] == [
        "topk-k2",
        "topk-k2-to_b-skipFalse",
        "topk-k2-to_b-skipTrue",
    ]


def test_controls_stand_on_what_is_reconstructed():
    controls = [m for m in loaded(TRANSCODER).family() if m.is_control]
    assert [(m.hook, m.target_hook) for m in controls] == [("b", "b")]
    both = [m.hook for m in loaded(SAE, TRANSCODER).family() if m.is_control]
    assert both == ["a", "b"]


def test_what_makes_a_transcoder_is_recorded():
    records = [sae.recorded() for sae in loaded(SAE, TRANSCODER).saes]
    found = [(record["target_hook"], record["skip"]) for record in records]
    assert found == [(None, False), ("b", False)]
