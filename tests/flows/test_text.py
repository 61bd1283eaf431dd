"""The pipeline on text: what the store holds is what TransformerLens computes."""

import json

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from flows.run import run as run_flow
from storage import home as homes
from storage.home import Home
from storage.store import Store
from tasks import evaluation, explanation, harvest, training
from tasks import plan as planning
from trilemma import config
from trilemma.lm import load_tokenizer

pytestmark = pytest.mark.usefixtures("prefect")
# What TransformerLens computes by itself; sdpa rounds in another order.
EAGER = ("harvest.attention=eager",)
HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def plan(tmp_path_factory, text_profile, prefect):
    """Return the plan of a finished run."""
    home = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(homes.VARIABLE, str(home))
        state = run_flow(config.load(text_profile, EAGER), return_state=True)
    assert state.is_completed(), state.message
    return planning.make(config.load(text_profile, EAGER), Home(home))


@pytest.mark.parametrize("split", ["train", "eval"])
def test_stored_activations_equal_run_with_cache_bit_for_bit(plan, split):
    folder = plan.step("lm").folder / "model"
    bridge = TransformerBridge.boot_transformers(
        str(folder), dtype=torch.float32, tokenizer=load_tokenizer(folder)
    )
    store = harvest.open_store(plan, split)
    for hook in HOOKS:
        for batch in store.sequences(hook, 8, limit=24):
            with torch.inference_mode():
                _, cache = bridge.run_with_cache(batch.tokens, names_filter=list(HOOKS))
            assert torch.equal(batch.x.bfloat16(), cache[hook].bfloat16())


def test_first_position_and_special_tokens_are_masked(plan):
    store = harvest.open_store(plan, "train")
    for batch in store.sequences(HOOKS[0], 8, limit=None):
        assert (batch.mask[:, 0] & 2 == 2).all()
        assert ((batch.mask & 1 == 1) == (batch.tokens == 0)).all()


def test_splits_share_no_document(plan):
    documents = [
        set(
            torch.cat([b.document for b in store.sequences(HOOKS[0], 8, limit=None)])
            .flatten()
            .tolist()
        )
        for store in (harvest.open_store(plan, split) for split in ("train", "eval"))
    ]
    assert not documents[0] & documents[1]


def test_statistics_are_those_of_the_rows_that_count(plan):
    store = harvest.open_store(plan, "train")
    rows = torch.cat([store.chunk(HOOKS[1], i) for i in range(store.num_chunks)])
    found = store.statistics(HOOKS[1])
    assert found["count"] == len(rows)
    assert found["mean_squared_norm"] == pytest.approx(
        float(rows.double().square().sum(1).mean())
    )
    torch.testing.assert_close(store.mean(HOOKS[1]), rows.double().mean(0))


def test_card_tells_the_loss_beside_the_unigram_entropy(plan):
    card = json.loads((plan.step("lm").folder / "card.json").read_text())
    assert card["val_loss"] > 0
    assert {"bits_per_byte", "unigram_entropy", "train_tokens"} <= set(card)


def test_every_metric_has_its_interval(plan):
    measured = evaluation.read_metrics(plan.step("evaluation", "topk-k4"))
    wanted = {
        "fvu", "l0", "density", "alive_fraction", "dead_fraction",
        "undetermined_fraction", "delta_ce", "ce_recovered_zero", "kl", "rate_bits",
        "polysemanticity",
    }  # fmt: skip
    assert wanted <= set(measured["metrics"])
    for name in wanted - {"alive_fraction", "dead_fraction", "undetermined_fraction"}:
        scalar = measured["metrics"][name]
        assert scalar["ci_low"] <= scalar["value"] <= scalar["ci_high"], name
    assert set(measured["controls"]) == {"pca", "frozen_random"}


def test_clusters_that_occur_together_have_words_and_a_latent(plan):
    step = plan.step("evaluation", "topk-k4")
    shared = evaluation.read_metrics(step)["shared"]
    assert 0 < len(shared) <= 10
    num_fired = evaluation.read_latents(step)["num_fired"]
    for pair in shared:
        assert pair["first_tokens"] + pair["second_tokens"]
        assert num_fired[pair["latent"]] > 0


def test_sampled_latents_are_explained_from_text(plan):
    records = explanation.read(plan.step("explanation", "topk-k4"))
    assert len(records) == 3
    assert all(record["examples"] for record in records)


def test_sae_knows_where_its_activations_come_from(plan):
    sae = training.load_sae(plan.step("training", "topk-k4"), "cpu")
    assert sae.metadata["hook_name"] == HOOKS[1]
    assert sae.metadata["context_size"] == 32


def test_unknown_hook_fails_with_the_nearest_names(plan, text_profile, monkeypatch):
    monkeypatch.setenv(homes.VARIABLE, str(plan.home.path))
    words = ("harvest.hooks=[blocks.1.hook_resid_pst]", "saes.0.hook=null")
    state = run_flow(config.load(text_profile, words), return_state=True)
    assert state.is_failed()
    assert "the LM has no hook 'blocks.1.hook_resid_pst'; nearest: blocks.1." in (
        state.message
    )


def test_unknown_hook_fails_before_a_corpus_is_made_for_it(
    plan, text_profile, monkeypatch
):
    monkeypatch.setenv(homes.VARIABLE, str(plan.home.path))
    words = ("harvest.hooks=[blocks.1.hook_resid_pst]", "saes.0.hook=null")
    loaded = config.load(text_profile, (*words, "corpus.max_tokens=9_000"))
    state = run_flow(loaded, return_state=True)
    assert "corpus: harvest.hooks: the LM has no hook" in state.message
    left = planning.make(loaded, plan.home).step("corpus").folder.iterdir()
    assert {path.name for path in left} == {"BEGUN.json", "FAILED.json"}


def test_corpus_without_text_fails_in_one_line(
    plan, text_profile, monkeypatch, tmp_path
):
    monkeypatch.setenv(homes.VARIABLE, str(plan.home.path))
    (tmp_path / "empty.txt").write_text("")
    words = (f"corpus={{kind: text, paths: [{tmp_path}/*.txt], ctx: 32}}",)
    state = run_flow(config.load(text_profile, words), return_state=True)
    assert state.is_failed()
    assert "corpus: no text in" in state.message


def test_corpus_shorter_than_a_batch_fails_in_one_line(plan, text_profile, monkeypatch):
    monkeypatch.setenv(homes.VARIABLE, str(plan.home.path))
    words = ("training.batch_tokens=1000000",)
    state = run_flow(config.load(text_profile, words), return_state=True)
    assert state.is_failed()
    assert "training.batch_tokens: found 1000000" in state.message


def test_store_opens_by_its_path(plan):
    path = plan.step("harvest").folder / "train.zarr"
    assert Store.open(path).read(HOOKS[0], 0, 4).dtype == torch.bfloat16


def test_report_says_when_too_few_documents_are_held_out(plan):
    info = json.loads((plan.step("corpus").folder / "corpus.json").read_text())
    number = info["eval"]["num_documents"]
    page = (plan.step("reporting").folder / "index.html").read_text()
    assert (f"Few documents are held out ({number})" in page) == (number < 20)
