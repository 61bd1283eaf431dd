"""Tests of explaining a sample of latents: statuses, controls, resuming, fakes."""

import json
from typing import Any

import numpy as np
import pytest

from trilemma.config.stages import Explanation as Settings
from trilemma.explanation import LatentExplanation, explain_latents, explain_with
from trilemma.explanation.evidence import Evidence
from trilemma.explanation.explainer import Explanation
from trilemma.explanation.rows import EXPLAIN, SCORE, Rows
from trilemma.explanation.scoring import Judgement

LATENTS = (2, 3, 5, 8, 13)
"""A token, another token, a rare firing, a silent latent, noise."""


@pytest.fixture(scope="module")
def acts(rows: Rows, text: Any) -> np.ndarray:
    generator = np.random.default_rng(3)
    fires = np.stack(
        [
            rows.token == 20,
            np.isin(rows.token, (12, 30)),
            np.arange(len(rows.token)) == 1001,
            np.zeros(len(rows.token), dtype=bool),
            generator.uniform(size=len(rows.token)) < 0.05,
        ],
        axis=1,
    )
    strength = generator.uniform(0.5, 2, size=fires.shape)
    shape = (*text.tokens.shape, len(LATENTS))
    return np.where(fires, strength, 0).astype(np.float32).reshape(shape)


@pytest.fixture(scope="module")
def density(acts: np.ndarray) -> np.ndarray:
    density = np.zeros(16)
    density[list(LATENTS)] = (acts > 0).mean(axis=(0, 1))
    return density


def run(
    settings: Settings,
    text: Any,
    acts: np.ndarray,
    density: np.ndarray,
    skip: tuple[int, ...] = (),
) -> list[LatentExplanation]:
    return list(
        explain_latents(
            settings,
            **text._asdict(),
            acts=acts,
            latents=LATENTS,
            density=density,
            skip=skip,
        )
    )


@pytest.fixture
def found(
    config: Settings, text: Any, acts: np.ndarray, density: np.ndarray
) -> list[LatentExplanation]:
    return run(config, text, acts, density)


def test_every_latent_comes_back_with_its_status(
    found: list[LatentExplanation],
) -> None:
    assert [(each.evidence.latent, each.status) for each in found] == [
        (2, "explained"),
        (3, "explained"),
        (5, "too_few_examples"),
        (8, "too_few_examples"),
        (13, "no_explanation"),
    ]


def test_too_few_examples_give_no_score_and_not_a_zero(
    found: list[LatentExplanation],
) -> None:
    silent = found[3].as_dict()
    assert silent["scores"] == {} and silent["judgements"] == []
    assert silent["text"] == "too few examples to explain"


def test_noise_scores_nothing(found: list[LatentExplanation]) -> None:
    score = found[4].scores["predicate_f1"]
    assert (score.value, score.ci_low, score.ci_high) == (0, 0, 0)


def test_a_shuffled_explanation_scores_lower(found: list[LatentExplanation]) -> None:
    for each in found[:2]:
        own, other = each.scores["predicate_f1"], each.scores["shuffled_f1"]
        assert own.value == 1 and other.value == 0


def test_a_latent_alone_has_no_shuffled_control(
    config: Settings, text: Any, acts: np.ndarray, density: np.ndarray
) -> None:
    (only,) = explain_latents(
        config,
        **text._asdict(),
        acts=acts[..., :1],
        latents=LATENTS[:1],
        density=density,
    )
    assert only.shuffled is None and only.scores["shuffled_f1"].value is None


def test_a_corpus_of_one_document_leaves_nothing_to_score(
    config: Settings, text: Any, acts: np.ndarray, density: np.ndarray
) -> None:
    alone = text._replace(document=np.zeros_like(text.document))
    found = run(config, alone, acts, density)
    assert {each.status for each in found} == {"too_few_examples"}


def test_as_dict_is_json_and_holds_what_a_page_needs(
    found: list[LatentExplanation],
) -> None:
    page = json.loads(json.dumps(found[0].as_dict(), allow_nan=False))
    assert set(page) >= {
        "latent",
        "density",
        "num_fired",
        "num_available",
        "status",
        "text",
        "terms",
        "scores",
        "examples",
        "histogram",
        "judgements",
    }
    example = page["examples"][0]
    assert example["group"] == "top"
    assert example["acts"][example["focus"]] == max(example["acts"]) > 0
    assert len(example["tokens"]) == len(example["acts"])


def test_an_example_can_be_found_in_the_text(
    found: list[LatentExplanation], text: Any
) -> None:
    for example in found[1].as_dict()["examples"]:
        seq, low = example["seq"], example["position"]
        high = low + len(example["tokens"])
        shown = [text.token_text[token] for token in text.tokens[seq, low:high]]
        assert shown == example["tokens"]
        assert set(text.document[seq, low:high].tolist()) == {example["document"]}


def test_scores_follow_from_the_judgements_in_the_json(
    found: list[LatentExplanation],
) -> None:
    page = found[1].as_dict()
    _, tp, fp, fn, _ = np.array(page["judgements"]).sum(axis=0)
    assert page["scores"]["predicate_f1"]["value"] == 2 * tp / (2 * tp + fp + fn)


def test_skipped_latents_change_nothing_for_the_others(
    found: list[LatentExplanation],
    config: Settings,
    text: Any,
    acts: np.ndarray,
    density: np.ndarray,
) -> None:
    rest = run(config, text, acts, density, skip=LATENTS[:2])
    assert [each.as_dict() for each in rest] == [each.as_dict() for each in found[2:]]


def test_each_setting_has_an_effect(
    config: Settings, text: Any, acts: np.ndarray, density: np.ndarray
) -> None:
    pages = []
    for change in (
        {},
        {"num_examples": 3},
        {"window": 8},
        {"seed": 1},
        {"num_resamples": 50},
    ):
        settings = config.model_copy(update=change)
        noisy = np.where(np.arange(acts.size).reshape(acts.shape) % 3 == 0, 0, acts)
        each = run(settings, text, noisy, density)
        pages.append(json.dumps([latent.as_dict() for latent in each]))
    assert len(set(pages)) == len(pages)


class EchoExplainer:
    """Says the number of firings that it was shown."""

    def explain(self, evidence: Evidence) -> Explanation:
        shown = [e for e in evidence.examples if evidence.rows.split[e.row] == EXPLAIN]
        return Explanation(
            f"{len(shown)} windows", None, evidence.rows.documents(EXPLAIN)
        )


class CertainScorer:
    """Judges every explanation right on every document."""

    def judge(
        self, explanation: Explanation, evidence: Evidence
    ) -> tuple[Judgement, ...]:
        return tuple(
            Judgement(document, tp=1, fp=0, fn=0, n=2, explained=1.0, total=1.0)
            for document in sorted(evidence.rows.documents(SCORE))
        )


def test_another_explainer_and_scorer_can_take_their_places(
    config: Settings, rows: Rows, acts: np.ndarray, density: np.ndarray
) -> None:
    first, *_ = explain_with(
        EchoExplainer(),
        CertainScorer(),
        config=config,
        rows=rows,
        acts=acts,
        latents=LATENTS,
        density=density,
        skip=(),
    )
    page = first.as_dict()
    assert page["text"].endswith(" windows") and page["terms"] == []
    assert page["scores"]["predicate_f1"]["value"] == 1
