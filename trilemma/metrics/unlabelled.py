"""What one pass says of an SAE's latents without knowing any feature."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from trilemma import allocation
from trilemma.config.stages import Evaluation
from trilemma.metrics import (
    coherence,
    consistency,
    geometry,
    monoscore,
    strata,
    token_kinds,
)
from trilemma.metrics.baseline import Baseline
from trilemma.metrics.clusters import Contexts
from trilemma.metrics.coders import Autoencoder, Coder, Transcoder
from trilemma.metrics.coherence import Examples
from trilemma.metrics.consistency import Classes, DocumentClasses
from trilemma.metrics.intervals import NUM_BLOCKS
from trilemma.metrics.monoscore import MonoScore
from trilemma.metrics.probe_tasks import Labeller
from trilemma.metrics.probes import CodeRows
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.strata import Firings
from trilemma.metrics.streaming import Batch, Measure
from trilemma.sequences import Sequences

_EMBEDDINGS = {"x": "activations", "context": "contexts"}
_LABELS = {
    "label": "context cluster",
    "token": "kind of token",
    "document": "document label",
}
_FEATURE = "strongest feature"
_CHANCE = dict.fromkeys(_LABELS, "by chance") | {
    "document": "labels dealt anew among documents"
}


class Text(NamedTuple):
    """What is known of tokens where rows are those of an LM."""

    embedding: Float[Tensor, "vocab d_model"]
    """The LM's input embedding."""
    token_text: Sequence[str]
    """What is shown for each token id."""


class Found(NamedTuple):
    """Scalars of the SAE, and columns of its latents."""

    metrics: dict[str, Scalar]
    columns: dict[str, Float64[np.ndarray, " d_sae"]]
    details: dict[str, float]
    """What the probes of each task reach."""


class Unlabelled:
    """Measures to show a pass to, and what they come to once it is over.

    Without text there are no contexts and no kinds of tokens, and labels are those of
    the toy: which feature is the strongest.
    """

    def __init__(
        self, sae: Coder, config: Evaluation, baseline: Baseline, *, text: Text | None
    ) -> None:
        d_sae, d_in = sae.W_dec.shape
        device = sae.W_dec.device
        self._sae, self._seed, self._baseline = sae, config.seed, baseline
        self._num_resamples = config.num_resamples
        self._firings = Firings(
            d_sae, num_blocks=NUM_BLOCKS, seed=config.seed, device=device
        )
        self._scores = {"x": MonoScore(d_sae, d_in, embed=_activations, device=device)}
        self._classes = {
            "label": Classes(
                d_sae,
                baseline.num_labels,
                classes=consistency.by_position(baseline.labels),
                device=device,
            )
        }
        self._documents = None
        if baseline.document_labels is not None:
            self._documents = DocumentClasses(
                d_sae, baseline.document_labels, seed=config.seed, device=device
            )
        self._examples, self._coded = None, None
        self.embed: Callable[[Batch], Float[Tensor, "row width"]] = _activations
        """What says how alike two rows are: contexts where there are any."""
        if text is None:
            return
        assert baseline.contexts is not None
        embedder = _Embedder(
            baseline.contexts, text.embedding.cpu(), config.context_tokens
        )
        self.embed = embedder.contexts
        self._scores["context"] = MonoScore(
            d_sae, text.embedding.shape[1], embed=embedder.contexts, device=device
        )
        kinds = token_kinds.of_vocabulary(text.token_text)
        self._classes["token"] = Classes(
            d_sae,
            len(token_kinds.KINDS),
            classes=consistency.by_token(kinds),
            device=device,
        )
        self._examples = Examples(
            d_sae, embed=embedder.contexts, seed=config.seed, device=device
        )
        if baseline.probes is not None:
            self._coded = CodeRows(
                d_sae, Labeller(text.token_text), baseline.probes, seed=config.seed
            )

    @property
    def measures(self) -> list[Measure]:
        """Return what the pass is to show its batches to."""
        found: list[Measure] = [self._firings]
        found += [*self._scores.values(), *self._classes.values()]
        some = (self._documents, self._examples, self._coded)
        return found + [each for each in some if each is not None]

    def found(self, *, is_live: Bool[np.ndarray, " d_sae"]) -> Found:
        """Return everything that the measures came to."""
        seed, d_sae = self._seed, len(is_live)
        allocation.give_back()
        shared, means = strata.strata(
            self._firings.sampled(),
            self._baseline.labels.numpy(),
            num_labels=self._baseline.num_labels,
            d_sae=d_sae,
            seed=seed,
        )
        allocation.give_back()
        metrics = strata.scalars(means, num_blocks=NUM_BLOCKS, seed=seed)
        columns = dict(shared._asdict())
        for name, score in self._scores.items():
            scores = score.scores()
            columns[f"monoscore_{name}"] = scores.score
            metrics |= monoscore.scalars(scores, name, embedding=_EMBEDDINGS[name])
        consistent = {
            name: classes.consistency(seed=seed)
            for name, classes in self._classes.items()
        }
        if self._documents is not None:
            consistent["document"] = self._documents.consistency()
        for name, found in consistent.items():
            columns[f"consistency_{name}"] = found.share
            columns[f"consistency_{name}_null"] = found.null
            is_toy = name == "label" and self._examples is None
            label = _FEATURE if is_toy else _LABELS[name]
            metrics |= consistency.scalars(
                found, name, label=label, chance=_CHANCE[name], seed=seed
            )
        if self._examples is not None:
            coherent = self._examples.coherence()
            metrics |= coherence.scalars(
                coherent, num_resamples=self._num_resamples, seed=seed
            )
            plus = np.full(d_sae, np.nan)
            plus[coherent.latent] = coherent.delta_plus - coherent.delta_minus
            columns["coherence"] = plus
        encoder = self._sae.W_enc if isinstance(self._sae, Autoencoder) else None
        if isinstance(self._sae, Transcoder) and self._sae.is_transcoder:
            encoder = None
        shape = geometry.geometry(self._sae.W_dec, encoder, is_live=is_live)
        columns["dict_cos"] = shape.dict_cos
        if shape.enc_dec_cos is not None:
            columns["enc_dec_cos"] = shape.enc_dec_cos
        metrics |= geometry.scalars(shape)
        if self._coded is None:
            return Found(metrics, columns, {})
        probed = self._coded.probed()
        return Found(metrics | probed.metrics, columns, probed.details)


def _activations(batch: Batch) -> Float[Tensor, "row d_in"]:
    return batch.x


class _Embedder:
    """Contexts of the rows of a batch, computed once for all that ask for them."""

    def __init__(
        self,
        contexts: Contexts,
        embedding: Float[Tensor, "vocab d_model"],
        context_tokens: int,
    ) -> None:
        self._contexts, self._embedding = contexts, embedding
        self._context_tokens = context_tokens
        self._sequences: Sequences | None = None
        self._found = torch.zeros(0, embedding.shape[1])

    def contexts(self, batch: Batch) -> Float[Tensor, "row d_model"]:
        """Return the context of each row."""
        if batch.rows.sequences is not self._sequences:
            self._sequences = batch.rows.sequences
            self._found = self._contexts.of(
                self._sequences.tokens,
                self._sequences.document,
                embedding=self._embedding,
                context_tokens=self._context_tokens,
            )
        return self._found[batch.rows.kept].to(batch.x.device)
