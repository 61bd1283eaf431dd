"""Profiles: words, families, and one line for each mistake."""

import json
from pathlib import Path

import pytest

from trilemma import config

PROFILES = sorted(Path("configs").glob("*.yaml"))
QUICKSTART = "configs/quickstart.yaml"
TOY = "configs/toy.yaml"


def lines(*words, profile=QUICKSTART):
    with pytest.raises(config.ProfileError) as caught:
        config.load(profile, words)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", [p for p in PROFILES if p.name != "nightly.yaml"])
def test_every_profile_loads(path):
    assert config.load(path).name == path.stem


@pytest.mark.parametrize("path", PROFILES)
def test_every_profile_fits_a_screen(path):
    assert len(path.read_text().splitlines()) <= 40


def test_schema_on_disk_is_that_of_the_models():
    schema = json.loads(Path("configs/schema.json").read_text())
    assert schema == config.json_schema()


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("saes.0.kk=3", "saes.0.kk: is not a key; did you mean k?"),
        ("nme=x", "nme: is not a key; did you mean name?"),
        (
            "lm.vocab_siz=4",
            "lm.vocab_siz: is not a key; did you mean vocab_size?",
        ),
        ("saes.0.k=4096", "saes.0.k: found 4096; must not exceed d_sae, which is 1024"),
        (
            "saes.0.k=abc",
            "saes.0.k: found 'abc'; input should be a valid integer, "
            "unable to parse string as an integer",
        ),
        (
            "training.batch_tokens=-1",
            "training.batch_tokens: found -1; input should be greater than 0",
        ),
        (
            "corpus.ctx=256",
            "corpus.ctx: found 256; must not exceed lm.ctx, which is 128",
        ),
        ("toy={}", "lm: has no effect beside toy; remove one of them"),
        ("lm=null", "lm: missing; a run needs it, or a toy"),
        ("saes.9.k=3", "saes.9: found '9'; the list has items 0 to 5"),
        (
            "saes.0.hook=foo",
            "saes.0.hook: found 'foo'; name one of blocks.2.hook_resid_post",
        ),
        ("grid.foo=[1]", "grid.foo: no SAE of the family has this key"),
        ("grid.seed=[]", "grid.seed: found no values; name at least one"),
        ("saes.0={kind: topk, d_sae: 4}", "saes.0.k: missing; it has no default"),
        (
            "saes=[{kind: topk, d_sae: 0, k: 1}]",
            "saes.0.d_sae: found 0; input should be greater than 0",
        ),
        (
            "saes=[]",
            "saes: found []; list should have at least 1 item after validation, not 0",
        ),
        (
            "sharing={tracker: none, project: x}",
            "sharing.project: has no effect without a tracker; remove it",
        ),
        (
            "training.eval_tokens=64",
            "training.eval_tokens: has no effect without training.eval_every_steps; "
            "remove it",
        ),
        (
            "control.k=2000",
            "control.k: found 2000; must not exceed its d_sae, which is 1024",
        ),
        ("name.x=3", "name: found 'quickstart', which has no parts"),
        ("k", "k: changes nothing; write dotted.key=value, such as saes.0.k=8"),
        ("k=[", "k: found '[', which is not YAML"),
    ],
)
def test_mistake_is_one_line_that_says_where_what_and_what_to_do(word, line):
    assert lines(word) == [line]


def test_every_mistake_has_its_own_line():
    assert [
        x.partition(":")[0] for x in lines("lm.seed=x", "corpus.ctx=1.5", "z=3")
    ] == ["lm.seed", "corpus.ctx", "z"]


def test_unknown_kind_names_those_there_are():
    (line,) = lines("lm.kind=foo")
    assert line.startswith("lm: found {'kind': 'foo'}")
    assert "'embedded', 'local', 'hub'" in line


def test_missing_profile_names_one_that_exists(tmp_path):
    with pytest.raises(config.ProfileError, match=r"cannot be read .*quickstart"):
        config.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["- a", "3", "a: [", "a: b: c"])
def test_file_that_is_not_a_profile_is_refused(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(config.ProfileError, match=str(path)):
        config.load(path)


def test_word_sets_a_nested_value():
    run = config.load(QUICKSTART, ("saes.0.k=8", "sharing.entity=null"))
    assert run.saes[0].k == 8


def test_word_can_make_a_section_that_the_profile_lacks():
    assert config.load(TOY, ("compute.threads=1",)).compute.threads == 1


def test_grid_multiplies_the_kinds_that_have_the_key():
    run = config.load(TOY, ("grid={k: [2, 4], seed: [0, 1]}",))
    names = [member.name for member in run.family()]
    assert names == [
        "topk-k2-seed0",
        "topk-k2-seed1",
        "topk-k4-seed0",
        "topk-k4-seed1",
        "batchtopk-k2-seed0",
        "batchtopk-k2-seed1",
        "batchtopk-k4-seed0",
        "batchtopk-k4-seed1",
        "relu-l1_2.0-seed0",
        "relu-l1_2.0-seed1",
        "jumprelu-l0_1.5-seed0",
        "jumprelu-l0_1.5-seed1",
        "frozen-random",
    ]


def test_grid_value_that_fits_no_sae_is_refused():
    (line,) = lines("grid={k: [16, 9999]}")
    assert (
        line == "grid: found {'k': 9999}; k: found 9999; must not exceed d_sae, "
        "which is 1024"
    )


def test_equal_saes_are_refused():
    (line,) = lines("grid={k: [16]}")
    assert "2 equal SAEs named 'topk-k16'" in line


def test_each_hook_in_use_has_its_control():
    run = config.load(
        QUICKSTART,
        (
            "harvest.hooks=[blocks.0.hook_resid_post, blocks.1.hook_resid_post]",
            "grid={hook: [blocks.0.hook_resid_post, blocks.1.hook_resid_post]}",
        ),
    )
    controls = [member for member in run.family() if member.is_control]
    assert [c.hook for c in controls] == [
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_post",
    ]


@pytest.mark.parametrize(
    "key",
    [
        "ce_seqs",
        "num_clusters",
        "context_tokens",
        "probe_rows",
        "window_tokens",
        "cause_seqs",
        "cause_latents",
    ],
)
def test_setting_that_a_toy_does_not_read_is_refused(key):
    (line,) = lines(f"evaluation.{key}=7", profile=TOY)
    assert line == f"evaluation.{key}: has no effect on a toy; remove it"


@pytest.mark.parametrize("key", ["column", "label_column"])
def test_column_of_text_files_is_refused(key):
    (line,) = lines(f"corpus={{kind: text, paths: [a.txt], {key}: body}}")
    assert line == (
        f"corpus.{key}: has no effect on text files, which have only one; remove it"
    )


def test_run_cannot_be_written_to():
    run = config.load(TOY)
    with pytest.raises(ValueError, match=r"frozen"):
        run.name = "other"


def test_run_survives_json():
    run = config.load(QUICKSTART)
    assert config.Run.model_validate(json.loads(run.model_dump_json())) == run


def test_pretrained_sae_has_the_name_of_its_folder_and_no_grid():
    words = ("saes.3={kind: pretrained, path: /saes/Layer 3}", "grid={seed: [0, 1]}")
    family = config.load(TOY, words).family()
    (member,) = (m for m in family if m.config.kind == "pretrained")
    assert (member.name, member.hook) == ("pretrained-layer-3", "toy")


@pytest.mark.parametrize("places", ["", ", path: /a, id: a/b"])
def test_pretrained_sae_has_exactly_one_place(places):
    (line,) = lines("saes.3={kind: pretrained" + places + "}", profile=TOY)
    assert line.endswith("; name exactly one of them")


def test_subfolder_beside_a_path_is_refused():
    word = "saes.3={kind: pretrained, path: /a, subfolder: b}"
    (line,) = lines(word, profile=TOY)
    assert "subfolder, revision: have no effect beside path" in line


def test_family_of_pretrained_saes_alone_needs_the_width_of_its_control():
    word = "saes=[{kind: pretrained, path: /a}]"
    (line,) = lines(word, profile=TOY)
    assert line.startswith("control.d_sae: missing; no SAE is trained")


def test_seeds_are_saes_that_differ_in_nothing_else():
    run = config.load(TOY, ("grid={seed: [0, 1, 2], k: [3, 4]}",))
    family = {member.name: member for member in run.family()}
    names = [other.name for other in run.other_seeds(family["topk-k3-seed1"])]
    assert names == ["topk-k3-seed0", "topk-k3-seed2"]
    assert run.other_seeds(family["frozen-random"]) == ()


def test_one_seed_has_no_other():
    run = config.load(TOY)
    assert [run.other_seeds(member) for member in run.family()] == [()] * 5
