"""What the text, or a toy's known features, say of an SAE beyond its own codes."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Shaped
from torch import Tensor

from trilemma import toys
from trilemma.config.stages import Evaluation
from trilemma.metrics import (
    activated,
    causes,
    co_occurrence,
    fidelity,
    known_scalars,
    parts,
    shared_clusters,
    summaries,
)
from trilemma.metrics.bench import Batches, Bench, Measured
from trilemma.metrics.coders import Coder
from trilemma.metrics.known_features import KnownFeatures
from trilemma.metrics.quantised import Quantised
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.shared_clusters import SharedPair

_SHARED_PAIRS = 10


class Told(NamedTuple):
    """Some of what is measured, as `EvaluationResult` has it."""

    metrics: dict[str, Scalar]
    controls: dict[str, dict[str, Scalar]]
    latents: dict[str, Shaped[np.ndarray, " d_sae"]]
    details: dict[str, float]
    parts: parts.Arrays
    shared: tuple[SharedPair, ...] = ()


def of_known_features(
    bench: Bench,
    sae: Coder,
    known: KnownFeatures,
    measured: Measured,
    *,
    l0: float,
    width: float | None,
) -> Told:
    """Return what is measured besides where every row's features are known.

    `width` is the SAE's own bin width, at which its monosemantic control is rounded.
    """
    live, num_fired = measured.num_fired > 0, measured.num_fired
    metrics = known_scalars.scalars(known, live=live, seed=bench.config.seed)
    answers = activated.one_hot(sae, toys.features(known.toy) + toys.bias(known.toy))
    cofiring = known_scalars.cofiring(known)
    metrics |= activated.scalars(answers, cofiring)
    columns = known_scalars.latent_facts(known)._asdict() | {
        "activated_features": answers,
        "cofiring_features": cofiring,
    }
    norms = sae.W_dec.detach().double().norm(dim=1).cpu().numpy()
    if width is None or not (norms[live] > 0).any():
        return Told(metrics, {}, columns, {}, {})
    k = math.ceil(l0)
    details: dict[str, float] = {"monosemantic_k": k}
    # One step in activation space, whatever the norms of the decoder's rows.
    step = width * math.sqrt(np.average(norms**2, weights=num_fired))
    control = bench.monosemantic_control(
        known.toy, k=k, width=step, device=sae.W_dec.device
    )
    control |= known_scalars.in_theory(known, k=k)
    return Told(metrics, {"monosemantic": control}, columns, details, {})


def of_text(
    bench: Bench,
    sae: Coder,
    measured: Measured,
    *,
    lm: fidelity.SplicedLM | None,
    hook: str,
    reads: Batches | None,
) -> Told:
    """Return what the text and the LM that reads it say; nothing of a toy."""
    config, baseline, latents = bench.config, bench.baseline, measured.tally.latents
    metrics: dict[str, Scalar] = {}
    shared: tuple[SharedPair, ...] = ()
    if baseline.together is not None:
        shared = shared_clusters.pairs(
            baseline.together,
            mass=latents.mass,
            num_fired=latents.num_fired,
            num=_SHARED_PAIRS,
        )
        associated = co_occurrence.association(
            baseline.together,
            mass=latents.mass,
            num_fired=latents.num_fired,
            num_permutations=config.num_resamples,
            seed=config.seed,
        )
        metrics |= co_occurrence.scalars(associated, config)
    if lm is None or baseline.ce is None:
        return Told(metrics, {}, {}, {}, {}, shared)
    documents = baseline.documents.numpy()
    spliced = fidelity.splices(
        sae,
        lm,
        bench.eval_batches(),
        hook=hook,
        documents=documents,
        num_seqs=config.ce_seqs,
        batch_seqs=config.batch_seqs,
        seed=config.seed,
        reads=reads and reads(),
    )
    caused = causes.causes(
        sae,
        lm,
        config,
        bench.eval_batches,
        hook=hook,
        documents=documents,
        num_fired=measured.num_fired,
        sum_acts=latents.sum_acts,
        reads=reads,
    )
    metrics |= summaries.losses(baseline.ce, spliced, config) | caused.metrics
    kept = parts.of_ratio(
        "delta_ce", spliced.ce - baseline.ce.clean, spliced.num_tokens
    )
    details: dict[str, float] = {"cause_lm_sequences": caused.num_runs}
    return Told(metrics, {}, caused.columns, details, kept, shared)


def ce_rise(
    sae: Coder,
    lm: fidelity.SplicedLM,
    eval_batches: Batches,
    config: Evaluation,
    *,
    hook: str,
    documents: Int64[Tensor, " document"],
    reads: Batches | None,
) -> Callable[[float], float]:
    """Return what quantising at a bin width costs, in nats, on a few sequences."""

    def cross_entropy(coder: Coder) -> float:
        return fidelity.cross_entropy(
            coder,
            lm,
            eval_batches(),
            hook=hook,
            documents=documents.numpy(),
            num_seqs=config.rate_ce_seqs,
            batch_seqs=config.batch_seqs,
            reads=reads and reads(),
        )

    exact = cross_entropy(sae)
    return lambda width: cross_entropy(Quantised(sae, width)) - exact
