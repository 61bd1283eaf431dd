"""The baseline: what measuring any SAE of a hook needs, computed once for them all."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int32, Int64, Integer
from torch import Tensor

from trilemma.config.stages import Evaluation
from trilemma.metrics import clusters, co_occurrence, fidelity, pca, shared_clusters
from trilemma.metrics.dense_probes import DenseProbes, DenseRows
from trilemma.metrics.intervals import NUM_BLOCKS
from trilemma.metrics.probe_tasks import Labeller
from trilemma.sequences import Sequences

NUM_PERMUTATIONS = 4
"""Label permutations whose mean is the null of `n_eff`."""

_TELLING_TOKENS = 4


class Rows(NamedTuple):
    """The counted rows of a batch."""

    x: Float[Tensor, "row d_in"]
    document: Int64[np.ndarray, " row"]
    """Index into the baseline's documents."""
    position: Int64[np.ndarray, " row"]
    """Which row of the held-out split this is, masked ones counted too."""
    sequences: Sequences
    """The whole sequences that they are rows of, for what depends on neighbours."""
    kept: Int64[Tensor, " row"]
    """Where the rows stand in those sequences, laid end to end."""
    read: Float[Tensor, "row d_read"] | None = None
    """What is encoded instead of x; None: x itself."""


@dataclass(frozen=True)
class Baseline:
    """Facts about the held-out rows of one hook that no SAE changes."""

    documents: Int64[Tensor, " document"]
    """Ids of the documents, increasing."""
    num_tokens: int
    """Rows that count."""
    mean: Float64[Tensor, " d_in"]
    """Mean of the held-out rows that count; the centre of `fvu`."""
    labels: Int32[Tensor, " row"]
    """int32 label of every held-out row: its context cluster, or true feature; -1
    where the row does not count."""
    num_labels: int
    components: pca.PCA
    """Principal components of the training rows."""
    curve: pca.RateCurve
    """Rate of those components over the rows that rates are measured on."""
    ce: fidelity.Ablations | None
    """Clean and ablated cross-entropies; None where there is no LM."""
    contexts: clusters.Contexts | None = None
    """What the clusters were found among; None where labels are given."""
    probes: DenseProbes | None = None
    """Probes of the activations themselves; None where nothing is probed."""
    together: co_occurrence.Counts | None = None
    """Where clusters were seen together; None where labels are given."""
    cluster_tokens: Int64[Tensor, "label token"] | None = None
    """Tokens that tell most of each cluster, -1 for none; None as `together`."""
    document_labels: Int32[Tensor, " document"] | None = None
    """What each document is, -1 where that is not known; None where of none."""

    def rows(
        self,
        batches: Iterable[Sequences],
        reads: Iterable[Sequences] | None = None,
    ) -> Iterator[Rows]:
        """Yield the rows that count, batch by batch.

        `reads` are the same sequences at the hook that a transcoder reads.
        """
        documents, position = self.documents.numpy(), 0
        beside = itertools.repeat(None) if reads is None else reads
        for batch, read in zip(batches, beside, strict=False):
            kept = (batch.mask.reshape(-1) == 0).nonzero()[:, 0]
            document = batch.document.reshape(-1)[kept].numpy()
            yield Rows(
                x=_flat(batch)[kept],
                document=np.searchsorted(documents, document),
                position=position + kept.numpy(),
                sequences=batch,
                kept=kept,
                read=None if read is None else _flat(read)[kept],
            )
            position += batch.mask.numel()

    def permuted_labels(self, *, seed: int) -> Int[np.ndarray, "permutation row"]:
        """Return the labels dealt anew among the rows that count, a few times.

        They are the narrowest integers that hold all labels, for there are many.
        """
        labels = self.labels.numpy().astype(np.min_scalar_type(-self.num_labels))
        counted = labels >= 0
        dealt = np.repeat(labels[None], NUM_PERMUTATIONS, axis=0)
        for index, row in enumerate(dealt):
            generator = np.random.default_rng([seed, index])
            row[counted] = generator.permutation(row[counted])
        return dealt

    def to_tensors(self) -> dict[str, Tensor]:
        """Return everything as tensors, as a safetensors file keeps them."""
        tensors = {
            "documents": self.documents,
            "num_tokens": torch.tensor(self.num_tokens),
            "mean": self.mean,
            "labels": self.labels,
            "num_labels": torch.tensor(self.num_labels),
            **{f"pca.{key}": value for key, value in self.components._asdict().items()},
            **{f"curve.{key}": value for key, value in self.curve._asdict().items()},
        }
        if self.together is not None:
            tensors |= {
                f"together.{key}": torch.from_numpy(value)
                for key, value in self.together._asdict().items()
            }
        for name in ("cluster_tokens", "document_labels"):
            value = getattr(self, name)
            if value is not None:
                tensors[name] = value
        if self.contexts is not None:
            tensors |= {
                f"contexts.{key}": value
                for key, value in self.contexts._asdict().items()
            }
        if self.probes is not None:
            tensors |= {
                f"probes.{key}": value for key, value in self.probes._asdict().items()
            }
        if self.ce is not None:
            tensors |= {
                f"ce.{key}": torch.from_numpy(value).contiguous()
                for key, value in self.ce._asdict().items()
            }
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Baseline":
        """Return the baseline that `to_tensors` took apart."""
        ce = None
        if "ce.num_tokens" in tensors:
            ce = fidelity.Ablations(
                *(tensors[f"ce.{key}"].numpy() for key in fidelity.Ablations._fields)
            )
        together = None
        if "together.windows" in tensors:
            together = co_occurrence.Counts(
                *(
                    tensors[f"together.{key}"].numpy()
                    for key in co_occurrence.Counts._fields
                )
            )
        contexts, probes = None, None
        if "probes.cut" in tensors:
            probes = DenseProbes(
                *(tensors[f"probes.{key}"] for key in DenseProbes._fields)
            )
        if "contexts.weight" in tensors:
            contexts = clusters.Contexts(
                tensors["contexts.weight"], tensors["contexts.centre"]
            )
        return cls(
            documents=tensors["documents"],
            num_tokens=int(tensors["num_tokens"]),
            mean=tensors["mean"],
            labels=tensors["labels"],
            num_labels=int(tensors["num_labels"]),
            components=pca.PCA(*(tensors[f"pca.{key}"] for key in pca.PCA._fields)),
            curve=pca.RateCurve(
                *(tensors[f"curve.{key}"] for key in pca.RateCurve._fields)
            ),
            ce=ce,
            contexts=contexts,
            probes=probes,
            together=together,
            cluster_tokens=tensors.get("cluster_tokens"),
            document_labels=tensors.get("document_labels"),
        )


@torch.inference_mode()
def baseline(
    config: Evaluation,
    *,
    eval_batches: Callable[[], Iterator[Sequences]],
    train_rows: Float[Tensor, "batch d_in"],
    mean: Float[Tensor, " d_in"],
    lm: fidelity.SplicedLM | None,
    hook: str,
    token_text: Sequence[str] | None = None,
    document_labels: Integer[np.ndarray, " id"] | None = None,
) -> Baseline:
    """Return what evaluating the SAEs of a hook needs beside each SAE itself.

    `train_rows` is a bounded sample of unmasked training rows and `mean` the mean of
    all of them. Without an LM, a token id is the label of its row (for a toy: which
    true feature is the strongest), and there are no cross-entropies. `token_text` is
    what is shown for each token id of an LM; without it nothing is probed.
    `document_labels` has the label of each document at its id, -1 for none.
    """
    centre = mean.double()
    seen = _Split(centre, config.rate_tokens)
    probed = None
    if token_text is not None and config.probe_rows is not None:
        probed = DenseRows(Labeller(token_text), config.probe_rows, seed=config.seed)
    for batch in eval_batches():
        seen.add(batch)
        if probed is not None:
            probed.add(batch)
    if seen.num_tokens == 0:
        raise ValueError(
            "evaluation: every held-out row is masked; hold out more text by "
            "corpus.eval_fraction"
        )
    tokens, document, counted = seen.joined()
    documents = torch.from_numpy(np.unique(document.numpy()))
    ce, contexts, together, telling = None, None, None, None
    if lm is None:
        labels, num_labels = tokens.reshape(-1).int(), int(tokens.max()) + 1
    else:
        contexts, labels = clusters.fit(
            tokens,
            document,
            counted,
            embedding=lm.embedding().cpu(),
            context_tokens=config.context_tokens,
            num_clusters=config.num_clusters,
            seed=config.seed,
        )
        num_labels = config.num_clusters
        together = co_occurrence.count(
            labels.reshape(tokens.shape).where(counted, -1).numpy(),
            np.searchsorted(documents.numpy(), document.numpy()),
            num_labels=num_labels,
            num_blocks=NUM_BLOCKS,
            window_tokens=config.window_tokens,
        )
        telling = torch.from_numpy(
            shared_clusters.telling_tokens(
                tokens.reshape(-1),
                labels.where(counted.reshape(-1), -1),
                num_labels=num_labels,
                num=_TELLING_TOKENS,
            )
        )
    if lm is not None and lm.predicts_next:
        ce = fidelity.ablations(
            lm,
            eval_batches(),
            hook=hook,
            mean=mean.float(),
            others=train_rows,
            documents=documents.numpy(),
            num_seqs=config.ce_seqs,
            batch_seqs=config.batch_seqs,
            seed=config.seed,
        )
    components = pca.fit(train_rows, mean=centre)
    return Baseline(
        documents=documents,
        num_tokens=seen.num_tokens,
        mean=centre + seen.shift / seen.num_tokens,
        labels=labels.where(counted.reshape(-1), -1),
        num_labels=num_labels,
        components=components,
        curve=pca.rate_curve(components, torch.cat(seen.sample)),
        ce=ce,
        contexts=contexts,
        probes=None if probed is None else probed.probes(documents),
        together=together,
        cluster_tokens=telling,
        document_labels=None
        if document_labels is None
        else torch.from_numpy(document_labels[documents.numpy()]).int(),
    )


def _flat(batch: Sequences) -> Float[Tensor, "row d_in"]:
    return batch.x.reshape(-1, batch.x.shape[-1]).float()


class _Split:
    """What is kept of the held-out rows: all tokens, and a bounded sample of x."""

    def __init__(self, centre: Float64[Tensor, " d_in"], sample_rows: int) -> None:
        self.centre = centre
        self.left = sample_rows
        self.num_tokens = 0
        self.shift = torch.zeros_like(centre)
        self.tokens: list[Tensor] = []
        self.document: list[Tensor] = []
        self.counted: list[Tensor] = []
        self.sample: list[Tensor] = []

    def add(self, batch: Sequences) -> None:
        counted = batch.mask == 0
        x = batch.x[counted].float()
        self.num_tokens += len(x)
        # About the training mean, so that a large common offset costs no digits.
        self.shift += (x.double() - self.centre).sum(0)
        self.tokens.append(batch.tokens)
        self.document.append(batch.document)
        self.counted.append(counted)
        if self.left > 0:
            self.sample.append(x[: self.left])
            self.left -= len(self.sample[-1])

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Hand over the tokens, their documents, and whether they count."""
        found = []
        for parts in (self.tokens, self.document, self.counted):
            found.append(torch.cat(parts))
            parts.clear()
        tokens, document, counted = found
        return tokens, document, counted
