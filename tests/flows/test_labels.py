"""A corpus with a column of labels, through every stage to the report."""

import json

import numpy as np
import pytest
import torch

from flows.run import run as run_flow
from storage import home as homes
from storage import tables
from storage.home import Home
from tasks import corpus, evaluation, harvest, training
from tasks import plan as planning
from trilemma import config

pytestmark = [pytest.mark.usefixtures("prefect"), pytest.mark.slow]
HOOK = "blocks.1.hook_resid_post"
NAME = "topk-k4"
WORDS = ("the", "of", "a", "self", "import", "return", "class", "value", "name", "to")


def documents():
    """Return texts of words and of numbers; each tenth does not say which it is."""
    generator = np.random.default_rng(0)
    for number in range(160):
        is_words = number % 3 > 0
        if is_words:
            parts = [WORDS[i] for i in generator.integers(0, len(WORDS), 60)]
        else:
            parts = [str(i) for i in generator.integers(0, 1000, 60)]
        label = None if number % 10 == 0 else "words" if is_words else "numbers"
        yield {"text": " ".join(parts), "group": label}


@pytest.fixture(scope="module")
def plan(tmp_path_factory, text_profile, prefect):
    """Return the plan of a finished run over labelled texts."""
    home = tmp_path_factory.mktemp("labels")
    path = home / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, documents())))
    words = (
        f"corpus={{kind: jsonl, paths: [{path}], ctx: 32, eval_fraction: 0.3, "
        "label_column: group}",
        f"harvest.hooks=[{HOOK}]",
        "evaluation.ce_seqs=16",
        "evaluation.rate_tokens=500",
        "evaluation.rate_ce_seqs=2",
        "evaluation.cause_seqs=2",
    )
    run = config.load(text_profile, words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(homes.VARIABLE, str(home))
        state = run_flow(run, return_state=True)
    assert state.is_completed(), state.message
    return planning.make(run, Home(home))


def test_latents_are_held_against_the_labels_of_their_documents(plan):
    sae = training.load_sae(plan.step("training", NAME), "cpu")
    names = [each["label"] for each in corpus.read_info(plan)["labels"]]
    labels = [text["group"] for text in documents()]
    counts = torch.zeros(sae.d_sae, len(names))
    store = harvest.open_store(plan, "eval")
    for batch in store.sequences(HOOK, 8, limit=None):
        kept = batch.mask == 0
        with torch.no_grad():
            fires = sae.encode(batch.x[kept]) != 0
        for row, document in zip(fires, batch.document[kept].tolist(), strict=True):
            if labels[document] is not None:
                counts[:, names.index(labels[document])] += row
    expected = (counts.max(1).values / counts.sum(1)).numpy()
    step = plan.step("evaluation", NAME)
    column = tables.read(step.folder / evaluation.LATENTS)["consistency_document"]
    found = np.array([np.nan if share is None else share for share in column])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    metrics = evaluation.read_metrics(step)["metrics"]
    share, null = (
        metrics[f"consistency_document{suffix}"]["value"] for suffix in ("", "_null")
    )
    assert share == pytest.approx(np.nanmean(expected), rel=1e-6)
    # Numbers and words are other tokens, so latents do not mix them as chance does.
    assert null < share <= 1


def test_the_report_tells_of_labels(plan):
    page = (plan.step("reporting").folder / "index.html").read_text()
    assert "consistency_document_null" in page
    assert "2 labels in column &#39;group&#39;" in page
