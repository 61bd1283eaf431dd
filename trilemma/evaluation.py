"""Evaluation: the rate, distortion, fidelity and polysemanticity of one SAE."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.metrics import (
    bench,
    fidelity,
    liveness,
    merging,
    parts,
    pca,
    rates,
    summaries,
    surroundings,
)
from trilemma.metrics.baseline import Baseline, baseline
from trilemma.metrics.bench import Batches, Bench
from trilemma.metrics.coders import Autoencoder, Coder
from trilemma.metrics.crosscoding import Crosscoding
from trilemma.metrics.known_features import KnownFeatures
from trilemma.metrics.merging import Merging
from trilemma.metrics.rate_curve import RateCurve
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.shared_clusters import SharedPair
from trilemma.metrics.sparsity import Sparsity
from trilemma.metrics.streaming import Measure
from trilemma.metrics.unlabelled import Text, Unlabelled
from trilemma.proxies.planting import FirstRows, Seen

__all__ = ["Baseline", "EvaluationResult", "baseline", "evaluate"]


class EvaluationResult(NamedTuple):
    """Everything that is measured of one SAE."""

    metrics: dict[str, Scalar]
    controls: dict[str, dict[str, Scalar]]
    """By the same formulas: `pca` at the SAE's rate, `frozen_random` at its l0, and on
    a toy `monosemantic` at its l0 and bin width."""
    latents: dict[str, Shaped[np.ndarray, " d_sae"]]
    """One column a fact, one entry a latent; NaN where a fact is undefined."""
    details: dict[str, float]
    """What the numbers rest on, such as bin widths and the control's k."""
    rate_curve: RateCurve
    """Rate and distortion as the bin width varies."""
    parts: parts.Arrays
    """Sums over documents, by which the SAE is paired with others and with its
    controls; see `metrics.parts`."""
    planted: tuple[Seen, ...]
    """How measures of polysemanticity follow merges planted in the SAE."""
    shared: tuple[SharedPair, ...]
    """Clusters that occur together most, and the latents that merge them."""


@torch.inference_mode()
def evaluate(
    sae: Coder,
    config: Evaluation,
    *,
    baseline: Baseline,
    eval_batches: Batches,
    lm: fidelity.SplicedLM | None,
    hook: str,
    control: Autoencoder | None,
    features: Float[Tensor, "num_features d_in"] | None,
    token_text: Sequence[str] | None = None,
    toy: Toy | None = None,
    parents: Int64[np.ndarray, " node"] | None = None,
    read_batches: Batches | None = None,
    widths: Mapping[str, int] | None = None,
) -> EvaluationResult:
    """Return what is measured of an SAE over the held-out rows.

    Of a transcoder, baseline, batches, hook and control are those of its target, and
    `read_batches` give the same sequences at the hook that it reads.

    Of a crosscoder `widths` names the hooks whose scaled activations make a row, and
    how wide each is; the LM is one that is spliced at all of them.

    `control` is the frozen-random SAE; it is cut to as many latents a token as this
    SAE fires. `features` are a toy's true directions; with them `polysemanticity` is
    the decoder's participation, else how far contexts mix, beside chance. `token_text`
    is what is shown for each token id of an LM; without it nothing is said of contexts.
    With the `toy` that drew the rows it is known besides which features each row has.
    `parents` are those of `metrics.tree_code`; None for an SAE without structure.
    """
    tried = Bench(config, baseline, eval_batches, features)
    num_documents, d_sae = len(baseline.documents), len(sae.W_dec)
    sparsity = Sparsity(num_documents=num_documents, d_sae=d_sae)
    merged = Merging(d_sae=d_sae, device=sae.W_dec.device)
    text = None
    if lm is not None and token_text is not None:
        text = Text(lm.embedding(), token_text)
    unlabelled = Unlabelled(sae, config, baseline, text=text)
    known = None if toy is None else KnownFeatures(sae, toy)
    first_rows = FirstRows(embed=unlabelled.embed)
    measures: list[Measure] = [sparsity, merged, *unlabelled.measures, first_rows]
    crossed = None if widths is None else Crosscoding(sae.W_dec, baseline, widths)
    measures += [each for each in (known, crossed) if each is not None]
    measured = tried.measure(sae, measures, reads=read_batches)
    pairs, counts = merged.pairs(), merged.counts()
    ce_rise = None
    if lm is not None and baseline.ce is not None:
        ce_rise = surroundings.ce_rise(
            sae,
            lm,
            eval_batches,
            config,
            hook=hook,
            documents=baseline.documents,
            reads=read_batches,
        )
    rated = rates.measure(
        measured.sample,
        sae.W_dec,
        config,
        fvu=measured.metrics["fvu"],
        l0=measured.metrics["l0"],
        ce_rise=ce_rise,
        parents=parents,
    )
    states = liveness.states(
        measured.num_fired,
        num_tokens=baseline.num_tokens,
        dead_density=config.dead_density,
    )
    metrics = (
        rated.metrics
        | measured.metrics
        | summaries.live_fractions(
            states, num_tokens=baseline.num_tokens, dead_density=config.dead_density
        )
    )
    found = unlabelled.found(is_live=measured.num_fired > 0)
    metrics |= sparsity.scalars(config) | merging.scalars(pairs, counts) | found.metrics
    kept = bench.kept_parts(measured, rated.length.bits)
    of_text = surroundings.of_text(
        tried, sae, measured, lm=lm, hook=hook, reads=read_batches
    )
    metrics |= of_text.metrics
    kept |= of_text.parts
    details = dict(rated.details) | found.details | of_text.details
    bits = metrics["rate_bits"]
    assert bits.value is not None
    pca_width = pca.width_at(
        baseline.curve, bits.value, num_components=len(baseline.mean)
    )
    details["pca_bin_width"] = pca_width
    tested = {"pca": tried.pca_control(pca_width, device=sae.W_dec.device)}
    if control is not None:
        k = min(math.ceil(metrics["l0"].value or 0), len(control.W_dec))
        details["frozen_random_k"] = k
        tested["frozen_random"] = tried.frozen_random_control(control, k=k)
    controls = {name: each.metrics for name, each in tested.items()}
    kept |= parts.of_controls({name: each.parts for name, each in tested.items()})
    columns = bench.columns(measured, states, baseline.num_tokens)
    columns |= merging.columns(pairs, counts) | found.columns | of_text.latents
    if known is not None:
        told = surroundings.of_known_features(
            tried,
            sae,
            known,
            measured,
            l0=metrics["l0"].value or 0,
            width=details.get("rate_bin_width"),
        )
        metrics, controls = metrics | told.metrics, controls | told.controls
        columns, details = columns | told.latents, details | told.details
    if crossed is not None:
        metrics |= crossed.scalars(config)
        columns |= crossed.decoder_shares()
    columns["rate_bits"] = rated.length.latent_bits
    return EvaluationResult(
        metrics,
        controls,
        columns,
        details,
        rated.curve,
        kept,
        planted=first_rows.planted(
            sae.W_dec,
            baseline.labels,
            num_labels=baseline.num_labels,
            num_latents=config.planted_latents,
            seed=config.seed,
        ),
        shared=of_text.shared,
    )
