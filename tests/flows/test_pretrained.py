"""A published SAE in a family: converted, measured, explained and reported."""

import json
from pathlib import Path

import pytest
import torch

from flows.run import run as run_flow
from flows.training import training as training_flow
from tasks import evaluation, explanation, training
from tasks import plan as planning
from trilemma import config
from trilemma.sae import SAE

pytestmark = pytest.mark.usefixtures("prefect")


def published(folder, *, d_in=8, file_format="dictionary_learning"):
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(12, d_in, generator=generator)
    sae = SAE(
        "topk", W_enc=W.T, b_enc=torch.zeros(12), W_dec=W, b_dec=torch.ones(d_in), k=3
    )
    sae.save(folder, file_format)
    return sae


def key_of(folder, profile, home):
    words = (f"saes.1={{kind: pretrained, path: {folder}, name: peer}}",)
    return planning.make(config.load(profile, words), home).step("training", "peer").key


def test_published_sae_goes_through_every_stage(profile, own_home, tmp_path):
    sae = published(tmp_path / "peer")
    words = (f"saes.1={{kind: pretrained, path: {tmp_path}/peer, name: peer}}",)
    state = run_flow(config.load(profile, words), return_state=True)
    assert state.is_completed(), state.message
    plan = planning.make(config.load(profile, words), own_home)
    trained = plan.step("training", "peer")
    assert json.loads((trained.folder / training.CURVE).read_text()) == []
    assert torch.equal(training.load_sae(trained, "cpu").W_dec, sae.W_dec)
    metrics = evaluation.read_metrics(plan.step("evaluation", "peer"))["metrics"]
    assert metrics["l0"]["value"] <= 3
    assert explanation.read(plan.step("explanation", "peer"))
    page = (plan.step("reporting").folder / "index.html").read_text()
    assert "peer" in page
    assert str(tmp_path) not in page


def test_key_follows_the_files_and_not_their_place(profile, own_home, tmp_path):
    keys = []
    for name in ("first", "second"):
        published(tmp_path / name)
        keys.append(key_of(tmp_path / name, profile, own_home))
    assert keys[0] == keys[1]


def of_sparsify(run, *, hookpoint="layers.3", **settings):
    published(run / hookpoint, file_format="sparsify")
    (run / "config.json").write_text(json.dumps({"model": "here", **settings}))
    return run / hookpoint


@pytest.mark.parametrize(
    "other",
    [
        {"hookpoint": "layers.4"},
        {"hookpoint": "layers.3.mlp"},
        {"model": "elsewhere"},
        {"dataset": "text"},
        {"ctx_len": 64},
    ],
)
def test_key_follows_what_sparsify_tells_outside_the_folder(
    profile, own_home, tmp_path, other
):
    folders = of_sparsify(tmp_path / "1"), of_sparsify(tmp_path / "2", **other)
    saes = [SAE.load(folder) for folder in folders]
    assert saes[0].metadata != saes[1].metadata
    keys = [key_of(folder, profile, own_home) for folder in folders]
    assert keys[0] != keys[1]


def test_key_of_sparsify_follows_only_what_is_read(profile, own_home, tmp_path):
    folders = of_sparsify(tmp_path / "1"), of_sparsify(tmp_path / "2", save_every=9)
    keys = [key_of(folder, profile, own_home) for folder in folders]
    assert keys[0] == keys[1]


def test_equal_saes_of_two_hookpoints_are_two(profile, own_home, tmp_path):
    names = ("layers.3", "layers.4")
    words = tuple(
        f"saes.{i}={{kind: pretrained, path: {of_sparsify(tmp_path, hookpoint=name)}}}"
        for i, name in enumerate(names)
    )
    named = tuple(f"saes.{i}.name={name}" for i, name in enumerate(names))
    run = config.load(profile, (*words, *named, "control.d_sae=12"))
    assert training_flow(run, return_state=True).is_completed()
    plan = planning.make(run, own_home)
    saes = [training.load_sae(plan.step("training", name), "cpu") for name in names]
    assert [sae.metadata["hook_name"] for sae in saes] == [
        "blocks.3.hook_resid_post",
        "blocks.4.hook_resid_post",
    ]


@pytest.mark.parametrize("said", [None, "elsewhere"])
def test_an_sae_that_says_no_hook_stands_on_the_one_it_is_given(
    said, profile, own_home, tmp_path, caplog
):
    published(tmp_path, file_format="saelens")
    path = tmp_path / "cfg.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"metadata": {"hook_name": said}})
    )
    words = (f"saes.1={{kind: pretrained, path: {tmp_path}, name: peer}}",)
    run = config.load(profile, words)
    with caplog.at_level("WARNING"):
        assert training_flow(run, return_state=True).is_completed()
    step = planning.make(run, own_home).step("training", "peer")
    assert training.load_sae(step, "cpu").metadata["hook_name"] == (said or "toy")
    warned = "training peer: says that it reads elsewhere, but stands on toy"
    assert (warned in caplog.messages) == (said is not None)


def test_one_sae_under_two_names_is_refused(profile, own_home, tmp_path):
    published(tmp_path)
    words = tuple(
        f"saes.{i}={{kind: pretrained, path: {tmp_path}, name: peer{i}}}"
        for i in (0, 1)
    )
    run = config.load(profile, (*words, "control.d_sae=12"))
    with pytest.raises(ValueError, match="'peer0' and 'peer1' are one and the same"):
        planning.make(run, own_home)


def test_missing_folder_is_refused_before_anything_runs(profile, own_home):
    words = ("saes.1={kind: pretrained, path: /nowhere}",)
    with pytest.raises(ValueError, match=r"saes\.path: found no folder '/nowhere'"):
        planning.make(config.load(profile, words), own_home)


def test_width_of_other_activations_fails_in_one_line(profile, own_home, tmp_path):
    published(tmp_path, d_in=5)
    words = (f"saes.1={{kind: pretrained, path: {tmp_path}, name: peer}}",)
    state = run_flow(config.load(profile, words), return_state=True)
    assert state.is_failed()
    assert "found an SAE of width 5, but the activations of toy have 8" in state.message


def test_bad_files_fail_in_one_line_each_and_spare_their_siblings(
    profile, own_home, tmp_path
):
    for name in ("pickled", "torn"):
        published(tmp_path / name)
    torch.save({"encoder.weight": Path("x")}, tmp_path / "pickled/ae.pt")
    tensors = torch.load(tmp_path / "torn/ae.pt", weights_only=True)
    del tensors["b_dec"]
    torch.save(tensors, tmp_path / "torn/ae.pt")
    family = [{"kind": "topk", "d_sae": 12, "k": 2}] + [
        {"kind": "pretrained", "path": str(tmp_path / name), "name": name}
        for name in ("pickled", "torn")
    ]
    words = (f"saes={json.dumps(family)}",)
    state = training_flow(config.load(profile, words), return_state=True)
    ending = state.result(raise_on_failure=False)
    assert ending.made[-2:] == ("training topk-k2", "training frozen-random")
    pickled, torn = ending.failed.values()
    assert f"{tmp_path}/pickled/ae.pt: is no torch file of plain tensors (" in pickled
    assert f"{tmp_path}/torn/ae.pt: found tensors " in torn
    assert "; AutoEncoderTopK has b_dec, " in torn
