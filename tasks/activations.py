"""Where a harvest's activations come from: an LM, SAELens's cache, or a toy."""

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks import corpus, lm
from tasks.corpus import SPLITS, Split
from tasks.harvesting import Documents, Source, Tokens
from tasks.plan import Plan, Step
from trilemma import batch_size, toys
from trilemma import harvest as library
from trilemma import lm as models
from trilemma.config import TOY_HOOK
from trilemma.config.sources import CachedCorpus, Harvest
from trilemma.config.toys import Toy
from trilemma.saelens_cache import Cache

_MIB = 1 << 20
_PACKAGES = ("torch", "transformers", "transformer-lens", "numpy")
_CACHED_BATCH_SEQS = 32


class Opened(NamedTuple):
    """Both splits' sources, and what of them fixes the bytes of a store."""

    sources: dict[Split, Source]
    ctx: int
    widths: dict[str, int]
    """d_in of each hook."""
    batch_seqs: int
    """Sequences in one forward pass."""
    provenance: dict[str, Any]

    def without_activations(self) -> "Opened":
        """Return the same without the LM, so that its memory is free."""
        return self._replace(
            sources={
                split: source._replace(batches=_gone)
                for split, source in self.sources.items()
            }
        )


def open_sources(plan: Plan, batch_seqs: int | None) -> Opened:
    """Return where the run's activations come from, the LM loaded and ready.

    `batch_seqs` is what an earlier call found, None to find it.
    """
    if plan.run.toy is not None:
        return _toy(plan.run.toy)
    config = plan.run.harvest
    assert config is not None
    if isinstance(plan.run.corpus, CachedCorpus):
        return _cached(plan, plan.run.corpus, config)
    return _from_lm(plan, config, batch_seqs)


def _from_lm(plan: Plan, config: Harvest, batch_seqs: int | None) -> Opened:
    model = lm.load(plan, dtype=config.lm_dtype)
    widths = {hook: model.d_in(hook) for hook in config.hooks}
    rows = {split: corpus.read(plan, split) for split in SPLITS}
    ctx = rows["train"].ctx
    special, pad = model.special_ids(), model.pad_id
    batch = (
        batch_seqs
        or config.batch_seqs
        or batch_size.find(
            model,
            config.hooks,
            ctx=ctx,
            memory_bytes=config.batch_memory_mib * _MIB,
        )
    )

    def source(split: Split) -> Source:
        def batches(span: slice) -> Iterator[Mapping[str, Tensor]]:
            tokens = rows[split].tokens(span)
            return library.batches(model, tokens, config.hooks, batch_seqs=batch)

        return Source(
            num_seqs=rows[split].num_seqs,
            tokens=rows[split].tokens,
            document=rows[split].document,
            mask=lambda tokens: library.mask_rows(tokens, special, pad),
            batches=batches,
        )

    return Opened(
        {split: source(split) for split in SPLITS},
        ctx,
        widths,
        batch,
        _provenance(plan, config.lm_dtype) | {"attention": model.attention},
    )


def _cached(plan: Plan, config: CachedCorpus, harvest: Harvest) -> Opened:
    cache = Cache.open(config.path)
    for hook in harvest.hooks:
        if hook not in cache.hooks:
            raise ValueError(
                f"harvest.hooks: {config.path!r} has no {hook!r}; it holds "
                f"{', '.join(cache.hooks)}"
            )
    rows = {split: corpus.read(plan, split) for split in SPLITS}
    tokenizer = models.load_tokenizer(lm.folder(plan))
    special, pad = models.special_ids(tokenizer), models.pad_id(tokenizer)

    def source(split: Split) -> Source:
        def batches(span: slice) -> Iterator[Mapping[str, Tensor]]:
            places = rows[split].document(span)[:, 0]
            for first in range(0, len(places), _CACHED_BATCH_SEQS):
                part = places[first : first + _CACHED_BATCH_SEQS]
                yield {
                    hook: cache.activations(hook, part).flatten(0, 1)
                    for hook in harvest.hooks
                }

        return Source(
            num_seqs=rows[split].num_seqs,
            tokens=rows[split].tokens,
            document=rows[split].document,
            mask=lambda tokens: library.mask_rows(tokens, special, pad),
            batches=batches,
        )

    return Opened(
        {split: source(split) for split in SPLITS},
        cache.ctx,
        {hook: cache.d_in(hook) for hook in harvest.hooks},
        _CACHED_BATCH_SEQS,
        _provenance(plan, cache.dtype),
    )


def _toy(config: Toy) -> Opened:
    counts = {"train": config.num_tokens, "eval": config.num_eval_tokens}

    def source(split: Split) -> Source:
        def tokens(span: slice) -> Tokens:
            drawn = toys.sample(config, split=split, **_span(span, config.ctx))
            found: Tokens = drawn.strongest.to(torch.int32).view(-1, config.ctx).numpy()
            return found

        def batches(span: slice) -> Iterator[Mapping[str, Tensor]]:
            yield {
                TOY_HOOK: toys.sample(config, split=split, **_span(span, config.ctx)).x
            }

        return Source(
            num_seqs=-(-counts[split] // config.ctx),
            tokens=tokens,
            document=lambda span: _numbered(span, config.ctx),
            mask=lambda tokens: np.zeros(tokens.shape, np.uint8),
            batches=batches,
        )

    return Opened(
        {split: source(split) for split in SPLITS},
        config.ctx,
        {TOY_HOOK: config.d_in},
        1,
        {"toy": config.model_dump(mode="json")},
    )


def _gone(span: slice) -> Iterator[Mapping[str, Tensor]]:
    raise AssertionError("the LM has been let go")


def _span(sequences: slice, ctx: int) -> dict[str, int]:
    return {
        "start": sequences.start * ctx,
        "num": (sequences.stop - sequences.start) * ctx,
    }


def _numbered(span: slice, ctx: int) -> Documents:
    numbers = np.arange(span.start, span.stop, dtype=np.int64)
    return np.repeat(numbers[:, None], ctx, axis=1)


def _provenance(plan: Plan, lm_dtype: str) -> dict[str, Any]:
    """Return what the activations are of, so that stores can be told apart."""
    assert plan.run.lm is not None
    return {
        "lm": plan.step("lm").section,
        "lm_dtype": lm_dtype,
        "processing": plan.run.lm.processing,
        "tokenizer": models.tokenizer_digest(lm.folder(plan)),
        "corpus": plan.step("corpus").section,
        "documents": corpus.read_info(plan)["num_documents"],
        "parents": {name: _parent(plan.step(name)) for name in ("lm", "corpus")},
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _parent(step: Step) -> dict[str, str]:
    manifest = step.manifest()
    assert manifest is not None
    return {"key": step.key, "digest": manifest.digest}
