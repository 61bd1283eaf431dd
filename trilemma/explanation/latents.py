"""Explanations of sampled latents, one at a time, each with its scores and controls."""

import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8

from trilemma.config.stages import Explanation as Settings
from trilemma.explanation import evidence as evidences
from trilemma.explanation.candidates import Candidates
from trilemma.explanation.evidence import Evidence, Example
from trilemma.explanation.explainer import Explainer, Explanation, PredicateExplainer
from trilemma.explanation.rows import EXPLAIN, SCORE, SPLIT_NAMES, Rows, lay_out
from trilemma.explanation.scoring import Judgement, PredicateScorer, Scorer, scores
from trilemma.metrics.scalar import Scalar

MIN_FIRINGS = 5
"""Fewer firings than this, in the explain or the score split, support no rule."""
MIN_DOCUMENTS = 2
"""Fewer documents than this give no interval over documents."""

EXPLAINED = "explained"
NO_EXPLANATION = "no_explanation"
TOO_FEW_EXAMPLES = "too_few_examples"
_TEXTS = {
    NO_EXPLANATION: "no explanation found",
    TOO_FEW_EXAMPLES: "too few examples to explain",
}


class LatentExplanation(NamedTuple):
    """What was found for one latent."""

    evidence: Evidence
    density: float
    """Share of tokens on which it fires, as evaluation measured it."""
    status: str
    """`explained`, `no_explanation` or `too_few_examples`; the last is not scored."""
    explanation: Explanation | None
    """None if there were too few examples."""
    judgements: tuple[Judgement, ...]
    """One for each document of the score split; scores follow from these."""
    shuffled: tuple[Judgement, ...] | None
    """The same for another latent's explanation; None if no other was explained."""
    scores: dict[str, Scalar]
    """Empty if there were too few examples."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON, whose values are of many types."""
        evidence, text, terms = self.evidence, _TEXTS.get(self.status), []
        token_text = evidence.rows.token_text
        if self.explanation is not None:
            text = text or self.explanation.text
            if self.explanation.predicate is not None:
                terms = self.explanation.predicate.as_dicts(token_text)
        top = evidence.groups[0]
        return {
            "latent": evidence.latent,
            "density": self.density,
            "num_fired": top.num_rows,
            "num_available": top.num_available,
            "status": self.status,
            "text": text,
            "terms": terms,
            "scores": {name: score._asdict() for name, score in self.scores.items()},
            "groups": [group._asdict() for group in evidence.groups],
            "examples": [_shown(evidence, example) for example in evidence.examples],
            "histogram": {
                "edges": list(evidence.histogram.edges),
                "counts": list(evidence.histogram.counts),
                "zero": evidence.histogram.zero,
            },
            "judgements": [[*row[:5]] for row in self.judgements],
            "masses": [[row.explained, row.total] for row in self.judgements],
            "shuffled_judgements": [[*row[:5]] for row in self.shuffled or ()],
        }


def explain_latents(
    config: Settings,
    *,
    tokens: Integer[np.ndarray, "seq pos"],
    document: Integer[np.ndarray, "seq pos"],
    mask: UInt8[np.ndarray, "seq pos"],
    acts: Float32[np.ndarray, "seq pos latent"],
    latents: Sequence[int],
    density: Float[np.ndarray, "d_sae"],
    token_text: Sequence[str],
    skip: Collection[int] = (),
) -> Iterator[LatentExplanation]:
    """Yield what predicates say of each latent, in the order of `latents`.

    `acts[..., i]` belongs to `latents[i]`; `density` is that of every latent of the
    SAE. Each result is a function of the arguments before `skip` and of its latent, so
    those in `skip` (done by an earlier, killed run) may be left out.
    """
    rows = lay_out(tokens, document=document, mask=mask, token_text=token_text)
    explainer = PredicateExplainer(
        Candidates(rows), max_terms=config.max_terms, min_gain=config.min_gain
    )
    yield from explain_with(
        explainer,
        PredicateScorer(),
        config=config,
        rows=rows,
        acts=acts,
        latents=latents,
        density=density,
        skip=skip,
    )


def explain_with(
    explainer: Explainer,
    scorer: Scorer,
    *,
    config: Settings,
    rows: Rows,
    acts: Float32[np.ndarray, "seq pos latent"],
    latents: Sequence[int],
    density: Float[np.ndarray, "d_sae"],
    skip: Collection[int],
) -> Iterator[LatentExplanation]:
    """Yield what an explainer says of each latent and how a scorer finds it.

    The shuffled control of a latent is the explanation of the next one in `latents`
    that has one, the first following the last.
    """
    num_latents = len(latents)
    assert acts.shape[-1] == num_latents, "acts and latents disagree"

    @functools.lru_cache(maxsize=2)
    def collected(index: int) -> Evidence:
        return evidences.collect(
            rows,
            np.ascontiguousarray(acts[..., index]).reshape(-1),
            latent=int(latents[index]),
            window=config.window,
            num_examples=config.num_examples,
            seed=config.seed,
        )

    @functools.cache
    def explained(index: int) -> Explanation | None:
        evidence = collected(index)
        return explainer.explain(evidence) if _is_enough(evidence) else None

    def control(index: int) -> Explanation | None:
        others = [*range(index + 1, num_latents), *range(index)]
        return next(filter(_says_something, map(explained, others)), None)

    for index, latent in enumerate(latents):
        if int(latent) in skip:
            continue
        explanation = explained(index)
        evidence, share = collected(index), float(density[latent])
        if explanation is None:
            yield LatentExplanation(
                evidence, share, TOO_FEW_EXAMPLES, None, (), None, {}
            )
            continue
        judgements = scorer.judge(explanation, evidence)
        other = control(index)
        shuffled = None if other is None else scorer.judge(other, evidence)
        yield LatentExplanation(
            evidence,
            share,
            EXPLAINED if _says_something(explanation) else NO_EXPLANATION,
            explanation,
            judgements,
            shuffled,
            scores(
                judgements,
                shuffled=shuffled,
                num_resamples=config.num_resamples,
                seed=config.seed,
            ),
        )


def _says_something(explanation: Explanation | None) -> bool:
    return explanation is not None and explanation.text is not None


def _is_enough(evidence: Evidence) -> bool:
    """Return whether the latent fires often enough on both sides of the split."""
    fired = evidence.acts > 0
    for split in (EXPLAIN, SCORE):
        documents = evidence.rows.document[fired & evidence.rows.counted_in(split)]
        if len(documents) < MIN_FIRINGS or len(np.unique(documents)) < MIN_DOCUMENTS:
            return False
    return True


def _shown(evidence: Evidence, example: Example) -> dict[str, Any]:
    """Return a window as JSON; activations to six digits, to keep pages small."""
    rows, window = evidence.rows, slice(example.start, example.stop)
    ctx = int(rows.position.max()) + 1
    return {
        "group": example.group,
        "document": int(rows.document[example.row]),
        "seq": example.row // ctx,
        "position": int(rows.position[example.start]),
        "focus": example.row - example.start,
        "tokens": [rows.token_text[token] for token in rows.token[window].tolist()],
        "acts": [float(f"{act:.6g}") for act in evidence.acts[window].tolist()],
        "split": SPLIT_NAMES[int(rows.split[example.row])],
    }
