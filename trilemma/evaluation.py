"""Evaluation: the rate, distortion, fidelity and polysemanticity of one SAE."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from trilemma import toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.metrics import (
    activated,
    causes,
    co_occurrence,
    density,
    fidelity,
    known_scalars,
    liveness,
    merging,
    parts,
    pca,
    polysemanticity,
    rate,
    rates,
    reconstruction,
    summaries,
)
from trilemma.metrics.baseline import Baseline, baseline
from trilemma.metrics.coders import Autoencoder, Coder, Strongest
from trilemma.metrics.known_features import KnownFeatures
from trilemma.metrics.merging import Merging
from trilemma.metrics.quantised import Quantised
from trilemma.metrics.rate_curve import RateCurve
from trilemma.metrics.reconstruction import DocumentSums, Reconstruction
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.sparsity import Sparsity
from trilemma.metrics.streaming import Measure
from trilemma.metrics.tally import Sample, Tally, Wanted, sweep
from trilemma.metrics.unlabelled import Text, Unlabelled
from trilemma.proxies.planting import FirstRows, Seen
from trilemma.sequences import Sequences
from trilemma.toys import projection

__all__ = ["Baseline", "EvaluationResult", "baseline", "evaluate"]


Batches = Callable[[], Iterator[Sequences]]
"""Starts over sequences in stored order."""


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
    """Sums over documents, by which SAEs are paired; see `metrics.parts`."""
    planted: tuple[Seen, ...]
    """How measures of polysemanticity follow merges planted in the SAE."""


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
) -> EvaluationResult:
    """Return what is measured of an SAE over the held-out rows.

    Of a transcoder, baseline, batches, hook and control are those of its target, and
    `read_batches` give the same sequences at the hook that it reads.

    `control` is the frozen-random SAE; it is cut to as many latents a token as this
    SAE fires. `features` are a toy's true directions; with them `polysemanticity` is
    the decoder's participation, else how far contexts mix, beside chance. `token_text`
    is what is shown for each token id of an LM; without it nothing is said of contexts.
    With the `toy` that drew the rows it is known besides which features each row has.
    `parents` are those of `metrics.tree_code`; None for an SAE without structure.
    """
    bench = _Bench(config, baseline, eval_batches, features)
    num_documents, d_sae = len(baseline.documents), len(sae.W_dec)
    sparsity = Sparsity(num_documents=num_documents, d_sae=d_sae)
    merged = Merging(
        num_documents=num_documents,
        num_tokens=baseline.num_tokens,
        d_sae=d_sae,
        device=sae.W_dec.device,
    )
    text = None
    if lm is not None and token_text is not None:
        text = Text(lm.embedding(), token_text)
    unlabelled = Unlabelled(sae, config, baseline, text=text)
    known = None if toy is None else KnownFeatures(sae, toy)
    first_rows = FirstRows(embed=unlabelled.embed)
    measures: list[Measure] = [sparsity, merged, *unlabelled.measures, first_rows]
    measures += [] if known is None else [known]
    measured = bench.measure(sae, measures, reads=read_batches)
    pairs, counts = merged.pairs(), merged.counts()
    ce_rise = None
    if lm is not None and baseline.ce is not None:
        ce_rise = _ce_rise(
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
    metrics |= sparsity.scalars(config) | merging.scalars(pairs, counts)
    found = unlabelled.found(is_live=measured.num_fired > 0)
    metrics |= found.metrics
    kept = _parts(measured, rated.length.bits)
    of_text = _of_text(bench, sae, measured, lm=lm, hook=hook, reads=read_batches)
    metrics |= of_text.metrics
    kept |= of_text.parts
    details = dict(rated.details) | found.details | of_text.details
    bits = metrics["rate_bits"]
    assert bits.value is not None
    pca_width = pca.width_at(
        baseline.curve, bits.value, num_components=len(baseline.mean)
    )
    details["pca_bin_width"] = pca_width
    controls = {"pca": bench.pca_control(pca_width, device=sae.W_dec.device)}
    if control is not None:
        k = min(math.ceil(metrics["l0"].value or 0), len(control.W_dec))
        details["frozen_random_k"] = k
        controls["frozen_random"] = bench.frozen_random_control(control, k=k)
    columns = _columns(measured, states, baseline.num_tokens)
    columns |= merging.columns(pairs, counts) | found.columns | of_text.latents
    if known is not None:
        told = _of_known_features(
            bench,
            sae,
            known,
            measured,
            l0=metrics["l0"].value or 0,
            width=details.get("rate_bin_width"),
        )
        metrics, controls = metrics | told.metrics, controls | told.controls
        columns, details = columns | told.latents, details | told.details
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
    )


class _Told(NamedTuple):
    """Some of what is measured, as `EvaluationResult` has it."""

    metrics: dict[str, Scalar]
    controls: dict[str, dict[str, Scalar]]
    latents: dict[str, Shaped[np.ndarray, " d_sae"]]
    details: dict[str, float]
    parts: parts.Arrays


def _of_known_features(
    bench: "_Bench",
    sae: Coder,
    known: KnownFeatures,
    measured: "_Measured",
    *,
    l0: float,
    width: float | None,
) -> _Told:
    """Return what is measured besides where every row's features are known.

    `width` is the SAE's own bin width, at which its monosemantic control is rounded.
    """
    live, num_fired = measured.num_fired > 0, measured.num_fired
    metrics = known_scalars.scalars(known, live=live, seed=bench.config.seed)
    answers = activated.one_hot(sae, toys.features(known.toy))
    cofiring = known_scalars.cofiring(known)
    metrics |= activated.scalars(answers, cofiring)
    columns = known_scalars.latent_facts(known)._asdict() | {
        "activated_features": answers,
        "cofiring_features": cofiring,
    }
    if width is None:
        return _Told(metrics, {}, columns, {}, {})
    k = math.ceil(l0)
    details: dict[str, float] = {"monosemantic_k": k}
    if known.is_exactly_budgeted:
        details["monosemantic_mse_theory"] = known.mean_excess(k)
    # One step in activation space, whatever the norms of the decoder's rows.
    norms = sae.W_dec.detach().double().norm(dim=1).cpu().numpy()
    step = width * math.sqrt(np.average(norms**2, weights=num_fired))
    control = bench.monosemantic_control(
        known.toy, k=k, width=step, device=sae.W_dec.device
    )
    return _Told(metrics, {"monosemantic": control}, columns, details, {})


class _Measured(NamedTuple):
    """What one pass says of a coder, its rate left aside."""

    metrics: dict[str, Scalar]
    errors: DocumentSums
    tally: Tally
    sample: Sample
    shared: polysemanticity.Sharing
    matches: polysemanticity.Matches | None

    @property
    def num_fired(self) -> Int64[np.ndarray, " d_sae"]:
        num_fired: Int64[np.ndarray, " d_sae"] = self.tally.latents.num_fired.sum(0)
        return num_fired


@dataclass(frozen=True)
class _Bench:
    """The held-out rows on which an SAE and its controls are measured alike."""

    config: Evaluation
    baseline: Baseline
    eval_batches: Batches
    features: Float[Tensor, "num_features d_in"] | None

    def measure(
        self,
        coder: Coder,
        measures: Sequence[Measure] = (),
        *,
        reads: Batches | None = None,
    ) -> _Measured:
        config, matches, score = self.config, None, None
        if self.features is not None:
            matches = polysemanticity.matches(coder.W_dec, self.features)
            score = matches.participation
        errors, tally = self._sweep(
            coder,
            Wanted(config.rate_tokens, null_seed=config.seed, score=score),
            measures,
            reads=reads,
        )
        assert tally.sample is not None
        latents = tally.latents
        shared = polysemanticity.sharing(
            mass=latents.mass,
            null_mass=latents.null_mass,
            num_fired=latents.num_fired,
            norms=coder.W_dec.double().norm(dim=1).cpu().numpy(),
        )
        metrics = reconstruction.scalars(*errors.sums(), config)
        metrics |= density.scalars(tally, config)
        if matches is None:
            labels = f"kmeans{self.baseline.num_labels}, sif{config.context_tokens}"
            metrics |= summaries.sharing(tally, shared, config, labels=labels)
        else:
            metrics |= summaries.sharing(
                tally, shared, config, labels="strongest feature"
            )
            metrics["polysemanticity"] = summaries.participation(tally, config)
            metrics["mmcs"] = summaries.mean_best_cosine(tally, matches)
        sums, _ = errors.sums()
        return _Measured(metrics, sums, tally, tally.sample, shared, matches)

    def pca_control(self, width: float, *, device: torch.device) -> dict[str, Scalar]:
        """Return what principal components at a bin width score."""
        found = self.baseline.components
        measured = self.measure(
            pca.QuantisedPCA(
                mean=found.mean.float().to(device),
                W_dec=found.components.float().to(device),
                width=width,
            )
        )
        codes = measured.sample.codes
        symbol = np.rint(codes.value.astype(np.float64) / width).astype(np.int64)
        bits = summaries.code_rate(
            codes,
            rate.code_length(codes, symbol),
            self.config,
            method="one bin width for all components, chosen to meet the SAE's rate",
        )
        kept = ("fvu", "l0", "polysemanticity")
        return {"rate_bits": bits, **{key: measured.metrics[key] for key in kept}}

    def monosemantic_control(
        self, toy: Toy, *, k: int, width: float, device: torch.device
    ) -> dict[str, Scalar]:
        """Return what at most k of a toy's own features score at a bin width."""
        measured = self.measure(projection.of_toy(toy, k=k, device=device))
        codes = measured.sample.codes
        bits = summaries.code_rate(
            codes,
            rate.code_length(codes, rate.symbols(codes, width)),
            self.config,
            method="the SAE's bin width, as its decoder scales it",
        )
        kept = ("fvu", "mse", "l0", "polysemanticity")
        return {"rate_bits": bits, **{key: measured.metrics[key] for key in kept}}

    def frozen_random_control(
        self, control: Autoencoder, *, k: int
    ) -> dict[str, Scalar]:
        """Return how well the k strongest of the control's latents reconstruct."""
        errors, tally = self._sweep(
            Strongest(control, k), Wanted(rate_rows=None, null_seed=None, score=None)
        )
        fvu = reconstruction.scalars(*errors.sums(), self.config)["fvu"]
        return {"fvu": fvu, "l0": density.scalars(tally, self.config)["l0"]}

    def _sweep(
        self,
        coder: Coder,
        wanted: Wanted,
        measures: Sequence[Measure] = (),
        *,
        reads: Batches | None = None,
    ) -> tuple[Reconstruction, Tally]:
        """Return what one pass adds up: errors, and all that the tally has."""
        rows = self.baseline.rows(self.eval_batches(), reads and reads())
        errors = Reconstruction(self.baseline, device=coder.W_dec.device)
        measures = [errors, *measures]
        tally = sweep(coder, self.baseline, rows, wanted=wanted, measures=measures)
        return errors, tally


def _ce_rise(
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


def _parts(measured: _Measured, bits: Float64[np.ndarray, " row"]) -> parts.Arrays:
    """Return what pairs this SAE with others on the axes that they are compared on."""
    sums, errors = measured.tally.documents, measured.errors
    of_row = measured.sample.codes.document
    num_documents = len(sums.num_tokens)
    found = (
        parts.of_ratio(
            "rate_bits",
            np.bincount(of_row, bits, minlength=num_documents),
            np.bincount(of_row, minlength=num_documents).astype(np.float64),
        )
        | parts.of_ratio("fvu", errors.squared_error, errors.squared_deviation)
        | parts.of_ratio("l0", sums.num_firings, sums.num_tokens)
    )
    if measured.matches is not None:
        return found | parts.of_ratio("polysemanticity", sums.score, sums.num_firings)
    left_out = measured.shared.mean_ratio_out[:num_documents]
    return found | parts.of_left_out("polysemanticity", left_out)


def _of_text(
    bench: _Bench,
    sae: Coder,
    measured: _Measured,
    *,
    lm: fidelity.SplicedLM | None,
    hook: str,
    reads: Batches | None,
) -> _Told:
    """Return what the text and the LM that reads it say; nothing of a toy."""
    config, baseline, latents = bench.config, bench.baseline, measured.tally.latents
    metrics: dict[str, Scalar] = {}
    if baseline.together is not None:
        associated = co_occurrence.association(
            baseline.together,
            mass=latents.mass,
            num_fired=latents.num_fired,
            num_permutations=config.num_resamples,
            seed=config.seed,
        )
        metrics |= co_occurrence.scalars(associated, config)
    if lm is None or baseline.ce is None:
        return _Told(metrics, {}, {}, {}, {})
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
    return _Told(metrics, {}, caused.columns, details, kept)


def _columns(
    measured: _Measured, states: Shaped[np.ndarray, " d_sae"], num_tokens: int
) -> dict[str, Shaped[np.ndarray, " d_sae"]]:
    """Return the facts about each latent; `mean_act` is over its firings."""
    num_fired, latents = measured.num_fired, measured.tally.latents
    fired = np.where(num_fired > 0, num_fired, np.nan)
    columns = {
        "latent": np.arange(len(num_fired)),
        "density": num_fired / num_tokens,
        "num_fired": num_fired,
        "state": states,
        "mean_act": latents.sum_acts / fired,
        "max_act": latents.max_acts,
        "n_eff": measured.shared.n_eff,
        "n_eff_null": measured.shared.n_eff_null,
        "purity": measured.shared.purity,
        "purity_null": measured.shared.purity_null,
    }
    if measured.matches is not None:
        best = measured.matches.best_feature
        columns |= {
            "participation": measured.matches.participation,
            "best_feature": best,
            "best_cosine": measured.matches.cosine[np.arange(len(best)), best],
        }
    return columns
