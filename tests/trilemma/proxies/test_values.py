"""What the harness tries is what evaluation reports, on the same rows."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.report import definitions
from tests.trilemma.evaluation.samples import cut
from trilemma import evaluation, toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.metrics.scalar import Scalar
from trilemma.proxies import worlds
from trilemma.proxies.measures import MEASURES
from trilemma.proxies.worlds import PAIRS, Code
from trilemma.sequences import Sequences
from trilemma.toys import oracle

PAGE = Path(__file__).parents[3] / "docs/proxies.md"
ROWS, CO_OCCURRENCE = 6000, 0.5
EVALUATED = {"participation": "polysemanticity", "monoscore": "monoscore_x"} | {
    "monoscore_excess": "monoscore_x_excess"
}
ALIKE = (
    "participation",
    "f1_gap",
    "mig",
    "mig_latent",
    "disentanglement",
    "completeness",
    "cofiring_features",
    "co_activation",
    "hedge_gt",
    "mmcs",
    "mcc",
    "uniqueness",
    "gt_recall",
    "monoscore",
    "monoscore_excess",
    "dict_cos",
    "c_dec",
    "mutual_coherence",
    "duplicate_fraction",
    "mergeable_fraction",
    "merging_saved_bits",
    "l0",
)
"""Measures that read neither labels nor a sample of firings."""


@pytest.fixture(scope="module")
def code() -> Code:
    """Return two merges of either kind, of rows in which all features have names."""
    world = worlds.pairs(CO_OCCURRENCE)
    assert world.concepts is not None
    concepts = oracle.Monosemantic(
        world.concepts.directions, torch.zeros(worlds.NUM_CONCEPTS), threshold=0.25
    )
    merged = oracle.merged(concepts, PAIRS, 0.5, "conjunctive")
    return Code(merged.W_dec, merged.encode(world.x))


@pytest.fixture(scope="module")
def reported() -> dict[str, Scalar]:
    """Return what evaluation says of the same SAE, each row a document of its own."""
    toy = Toy(
        num_features=worlds.NUM_CONCEPTS,
        d_in=worlds.NUM_CONCEPTS,
        density=worlds.DENSITY,
        co_occurrence=CO_OCCURRENCE,
        magnitude="constant",
    )
    features = toys.features(toy)
    concepts = oracle.Monosemantic(features, toys.bias(toy), threshold=0.25)
    found = toys.sample(toy, split="eval", start=0, num=ROWS)
    shape = (ROWS, 1)
    rows = Sequences(
        found.strongest.reshape(shape),
        torch.arange(shape[0])[:, None].expand(shape).contiguous(),
        torch.zeros(shape, dtype=torch.uint8),
        found.x.reshape(*shape, -1),
    )
    config = Evaluation(num_resamples=20, probe_rows=None)
    batches = cut(rows, [shape[0]])
    return evaluation.evaluate(
        oracle.merged(concepts, PAIRS, 0.5, "conjunctive"),
        config,
        baseline=evaluation.baseline(
            config,
            eval_batches=batches,
            train_rows=found.x,
            mean=found.x.mean(0),
            lm=None,
            hook="toy",
        ),
        eval_batches=batches,
        lm=None,
        hook="toy",
        control=None,
        features=features,
        toy=toy,
    ).metrics


@pytest.mark.parametrize("name", ALIKE)
def test_a_measure_is_what_evaluation_reports(
    name: str, code: Code, reported: dict[str, Scalar]
) -> None:
    (measure,) = (each for each in MEASURES if each.name == name)
    found = measure.value(code, worlds.pairs(CO_OCCURRENCE))
    assert not np.isnan(found)
    assert found == pytest.approx(reported[EVALUATED.get(name, name)].value, rel=1e-6)


def test_every_reported_measure_of_polysemanticity_is_tried_or_the_page_says_why() -> (
    None
):
    tried = {measure.name for measure in MEASURES}
    page = PAGE.read_text(encoding="utf-8").partition("## What is not tried")[2]
    of_rows = re.compile("_(x|context|token|label|document)(?=_|$)")
    for metric in definitions.METRICS:
        if metric.group not in ("Polysemanticity", "Known features", "Geometry"):
            continue
        name = of_rows.sub("", metric.name)
        if not name.endswith("_null") and name not in tried | {"polysemanticity"}:
            assert f"`{metric.name}`" in page, metric.name
