"""The bench: held-out rows on which an SAE and its controls are measured alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.metrics import (
    density,
    parts,
    pca,
    polysemanticity,
    rate,
    reconstruction,
    summaries,
)
from trilemma.metrics.baseline import Baseline
from trilemma.metrics.coders import Autoencoder, Coder, Strongest
from trilemma.metrics.reconstruction import DocumentSums, Reconstruction
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.streaming import Measure
from trilemma.metrics.tally import Sample, Tally, Wanted, sweep
from trilemma.sequences import Sequences
from trilemma.toys import projection

Batches = Callable[[], Iterator[Sequences]]
"""Starts over sequences in stored order."""


class Measured(NamedTuple):
    """What one pass says of a coder, its rate left aside."""

    metrics: dict[str, Scalar]
    errors: DocumentSums
    tally: Tally
    sample: Sample
    shared: polysemanticity.Sharing
    matches: polysemanticity.Matches | None

    @property
    def num_fired(self) -> Int64[np.ndarray, " d_sae"]:
        """Return on how many rows each latent fired."""
        num_fired: Int64[np.ndarray, " d_sae"] = self.tally.latents.num_fired.sum(0)
        return num_fired


class Control(NamedTuple):
    """What a control scores on an SAE's terms."""

    metrics: dict[str, Scalar]
    parts: parts.Arrays
    """What pairs it with the SAE; see `metrics.parts`."""


@dataclass(frozen=True)
class Bench:
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
    ) -> Measured:
        """Return what one pass says of a coder, and show it to further measures.

        A coder that reads another hook than it reconstructs has its rows from `reads`.
        """
        config, matches, score = self.config, None, None
        if self.features is not None:
            matches = polysemanticity.matches(coder.W_dec, self.features)
            score = matches.participation
        errors = Reconstruction(self.baseline, device=coder.W_dec.device)
        tally = sweep(
            coder,
            self.baseline,
            self.baseline.rows(self.eval_batches(), reads and reads()),
            wanted=Wanted(config.rate_tokens, null_seed=config.seed, score=score),
            measures=[errors, *measures],
        )
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
        return Measured(metrics, sums, tally, tally.sample, shared, matches)

    def pca_control(self, width: float, *, device: torch.device) -> Control:
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
        metrics = {"rate_bits": bits, **{key: measured.metrics[key] for key in kept}}
        return Control(metrics, _parts_without_rate(measured))

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

    def frozen_random_control(self, control: Autoencoder, *, k: int) -> Control:
        """Return what the k strongest of the control's latents score."""
        measured = self.measure(Strongest(control, k))
        kept = ("fvu", "l0", "polysemanticity")
        metrics = {key: measured.metrics[key] for key in kept}
        return Control(metrics, _parts_without_rate(measured))


def columns(
    measured: Measured, states: Shaped[np.ndarray, " d_sae"], num_tokens: int
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
            "best_cosine": np.where(
                np.isnan(best), np.nan, measured.matches.cosine.max(1)
            ),
        }
    return columns


def kept_parts(measured: Measured, bits: Float64[np.ndarray, " row"]) -> parts.Arrays:
    """Return what pairs this SAE with others on the axes that they are compared on."""
    of_row = measured.sample.codes.document
    num_documents = len(measured.tally.documents.num_tokens)
    return _parts_without_rate(measured) | parts.of_ratio(
        "rate_bits",
        np.bincount(of_row, bits, minlength=num_documents),
        np.bincount(of_row, minlength=num_documents).astype(np.float64),
    )


def _parts_without_rate(measured: Measured) -> parts.Arrays:
    sums, errors = measured.tally.documents, measured.errors
    found = parts.of_ratio(
        "fvu", errors.squared_error, errors.squared_deviation
    ) | parts.of_ratio("l0", sums.num_firings, sums.num_tokens)
    if measured.matches is not None:
        return found | parts.of_ratio("polysemanticity", sums.score, sums.num_scored)
    left_out, sizes = (
        each[: len(sums.num_tokens)]
        for each in (measured.shared.mean_ratio_out, measured.shared.block_sizes)
    )
    return found | parts.of_left_out("polysemanticity", left_out, sizes)
