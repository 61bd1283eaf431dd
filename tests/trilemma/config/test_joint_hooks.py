"""What crosscoders refuse, each in one line; their names, controls and records."""

import pytest

from trilemma import config

TOY, LOCAL = "configs/toy.yaml", "configs/local-model.yaml"
HOOKS = "harvest.hooks=[a, b, c]"
SAE = "{kind: topk, d_sae: 8, k: 2, hook: a}"
CROSSCODER = "{kind: topk, d_sae: 8, k: 2, hook: [a, b]}"


def line(*words, profile=LOCAL):
    with pytest.raises(config.ProfileError) as caught:
        config.load(profile, words)
    return str(caught.value)


def refused(sae):
    return line(HOOKS, f"saes=[{SAE}, {sae}]", "grid={}")


def loaded(*saes):
    return config.load(LOCAL, (HOOKS, f"saes=[{', '.join(saes)}]", "grid={}"))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("hook: [a]", "hook: found ['a']; a list is for a crosscoder, of two different "
         "hooks or more"),
        ("hook: [a, a]", "hook: found ['a', 'a']; a list is for a crosscoder, of two "
         "different hooks or more"),
        ("hook: [a, d]", "hook: found 'd'; name one of a, b, c"),
        ("hook: a+b", "hook: found 'a+b'; name one of a, b, c"),
        ("hook: [a, b], target_hook: c", "target_hook: a crosscoder reconstructs the "
         "hooks that it reads; remove it, or name one hook"),
        ("hook: c, target_hook: a+b", "target_hook: found 'a+b'; it must be harvested, "
         "and another than its hook 'c': name one of a, b"),
        ("hook: c, target_hook: [a, b]", "target_hook: found ['a', 'b']; input should "
         "be a valid string"),
        ("hook: [a, b], skip: true",
         "skip: has no effect without target_hook; remove it"),
        ("hook: [a, b], inference: matching_pursuit", "inference: matching_pursuit "
         "measures distances in activations as they are, a crosscoder in scaled ones; "
         "remove it, or name one hook"),
        ("hook: [a, b], terms: {input_weights: {kind: variance, alpha: 0.5}}",
         "terms.input_weights: weighs the dimensions of one hook; remove it, or name "
         "one hook"),
        ("hook: [a, b], terms: {end_to_end: {coefficient: 1.0}}", "terms.end_to_end: "
         "reads the activations of one hook alone; remove it, or name one hook"),
    ],
)  # fmt: skip
def test_what_no_crosscoder_can_do_is_one_line(found, said):
    assert refused(f"{{kind: topk, d_sae: 8, k: 2, {found}}}") == f"saes.1.{said}"


def test_a_published_crosscoder_is_checked_too():
    words = (HOOKS, "grid={}", "control.d_sae=8")
    alone = line(*words, "saes=[{kind: pretrained, path: /p, hook: [a]}]")
    assert alone.startswith("saes.0.hook: found ['a']; a list is for a crosscoder")
    beside = "saes=[{kind: pretrained, path: /p, hook: [a, b], target_hook: c}]"
    assert line(*words, beside).startswith("saes.0.target_hook: a crosscoder")


def test_a_toy_has_one_hook():
    assert line("saes.0.hook=[toy, other]", profile=TOY) == (
        "saes.0.hook: found 'other'; name one of toy"
    )


def test_no_hook_can_have_what_joins_hooks_in_its_name():
    assert line("harvest.hooks=[a+b]", f"saes=[{SAE}]") == (
        "harvest.hooks: found 'a+b'; '+' joins the hooks of a crosscoder, so no hook "
        "can have it in its name"
    )


def test_a_crosscoder_has_one_hook_of_several_and_a_control_on_it():
    members = loaded(SAE, CROSSCODER).family()
    assert [(m.name, m.hook, m.is_control) for m in members] == [
        ("topk-k2-a", "a", False),
        ("topk-k2-a-b", "a+b", False),
        ("frozen-random-a", "a", True),
        ("frozen-random-a-b", "a+b", True),
    ]


def test_hooks_are_recorded_as_a_list_and_one_hook_as_it_was():
    members = loaded(SAE, CROSSCODER).family()
    found = [member.config.recorded()["hook"] for member in members]
    assert found == ["a", ["a", "b"], "a", ["a", "b"]]


def test_a_grid_multiplies_hooks():
    run = config.load(
        LOCAL, (HOOKS, f"saes=[{SAE}]", "grid={hook: [a, [a, b], [b, a]]}")
    )
    names = [member.name for member in run.family() if not member.is_control]
    assert names == ["topk-k2-a", "topk-k2-a-b", "topk-k2-b-a"]
