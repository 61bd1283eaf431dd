"""SAEs with terms in their loss, through the training stage."""

import json

import numpy as np
import pytest
import torch

from flows.training import training as training_flow
from tasks import harvest, training
from tasks import plan as planning
from trilemma import config

pytestmark = pytest.mark.usefixtures("prefect")
DEADLINE_SECONDS = 120
ALL = (
    "{input_weights: {kind: consistency, num_rows: 1000, active_fraction: 0.05}, "
    "incoherence: {coefficient: 0.1}, load_balance: {coefficient: 0.1}, "
    "monosemanticity: {coefficient: 0.1}, "
    "end_to_end: {coefficient: 0.1, batch_seqs: 3}}"
)


def trained(run):
    state = training_flow(run, force=False, return_state=True)
    assert state.is_completed(), state.message
    return state


def weights_of(scores, path):
    np.save(path, np.array(scores))
    return f"saes.0.terms.input_weights={{kind: given, path: {path}}}"


def test_variances_of_the_store_weigh_the_dimensions(profile, own_home):
    words = ("saes.0.terms.input_weights={kind: variance}",)
    trained(config.load(profile, words))
    plan = planning.make(config.load(profile, words), own_home)
    store = harvest.open_store(plan, "train")
    rows = torch.cat([store.chunk("toy", i) for i in range(store.num_chunks)])
    torch.testing.assert_close(
        store.variance("toy"), rows.double().var(0, correction=0)
    )
    scores = ", ".join(map(str, store.variance("toy").tolist()))
    given = f"saes.0.terms.input_weights={{kind: given, values: [{scores}]}}"
    trained(config.load(profile, (given,)))
    again = planning.make(config.load(profile, (given,)), own_home)
    saes = [training.load_sae(p.of("training")[0], "cpu") for p in (plan, again)]
    torch.testing.assert_close(saes[0].W_dec, saes[1].W_dec)
    assert saes[0].metadata["trilemma"]["config"]["terms"]["input_weights"] == {
        "kind": "variance",
        "alpha": 1.0,
        "normalisation": "mean",
    }


def test_key_follows_the_content_of_the_scores_and_not_their_place(
    profile, own_home, tmp_path
):
    keys = []
    for name, first in {"a": 1.0, "b": 1.0, "c": 2.0}.items():
        word = weights_of([first] + [1.0] * 7, tmp_path / f"{name}.npy")
        plan = planning.make(config.load(profile, (word,)), own_home)
        keys.append(plan.of("training")[0].key)
    assert keys[0] == keys[1] != keys[2]


def test_scores_of_another_width_fail_one_sae_in_one_line(profile, own_home, tmp_path):
    run = config.load(profile, (weights_of([1.0, 2.0], tmp_path / "s.npy"),))
    state = training_flow(run, force=False, return_state=True)
    assert state.message.endswith(
        ": terms.input_weights.path: found shape (2,); the activations of "
        "target_hook, else of hook, have 8 dimensions"
    )
    plan = planning.make(run, own_home)
    assert plan.step("training", "batchtopk-k2").state() == "done"


def test_an_sae_with_every_term_is_trained_on_text(text_profile, own_home):
    words = (f"saes.0.terms={ALL}", "training.log_every_steps=5")
    run = config.load(text_profile, words)
    trained(run)
    plan = planning.make(run, own_home)
    step = plan.of("training")[0]
    assert "lm" in step.parents
    assert "lm" not in plan.step("training", "frozen-random").parents
    curve = json.loads((step.folder / training.CURVE).read_text())
    assert len(curve) > 1
    assert curve[-1]["fvu"] < curve[0]["fvu"]


@pytest.mark.slow
def test_training_with_every_term_resumes_to_the_same_bytes(
    text_profile, killed_and_quiet
):
    words = (
        f"saes.0.terms={ALL}",
        "training.epochs=4",
        "training.batch_tokens=128",
        "training.checkpoint_every_steps=7",
    )
    killed, quiet = killed_and_quiet(
        text_profile, *words, deadline_seconds=DEADLINE_SECONDS
    )
    assert killed == quiet
