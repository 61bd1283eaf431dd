"""Sources of activations made of arrays, and the engine of a harvest run on them."""

import numpy as np
import torch

from storage.store_writer import Layout, StoreWriter
from tasks import finishing, harvesting
from tasks.harvesting import Settings, Source
from trilemma.sequences import MASK_FIRST

CTX = 4
HOOK, OTHER = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"
WIDTHS = {HOOK: 6, OTHER: 3}
RATIO = 10.0
_ITEM = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


def activations(num_seqs, widths=WIDTHS):
    """Return the rows of each hook, `[rows, d_in]`, whose mean is far from zero."""
    generator = torch.Generator().manual_seed(num_seqs)
    return {
        hook: torch.randn(num_seqs * CTX, width, generator=generator) + 2
        for hook, width in widths.items()
    }


def source(x, batch_seqs, *, batch_shift=0.0, spans=None):
    """Return the source of these rows; the first of each sequence does not count.

    As the last bits of an LM's activations do, the values hang on where a batch
    begins, by `batch_shift` for each sequence before it. `spans` collects the spans
    for which batches were asked.
    """
    num_seqs = len(next(iter(x.values()))) // CTX

    def batches(span):
        if spans is not None:
            spans.append(span)
        for first in range(span.start, span.stop, batch_seqs):
            rows = slice(first * CTX, min(first + batch_seqs, span.stop) * CTX)
            yield {hook: rows_[rows] + batch_shift * first for hook, rows_ in x.items()}

    def mask(tokens):
        found = np.zeros(tokens.shape, np.uint8)
        found[:, 0] = MASK_FIRST
        return found

    return Source(
        num_seqs=num_seqs,
        tokens=lambda span: tokens_of(num_seqs)[span],
        document=lambda span: documents_of(num_seqs)[span],
        mask=mask,
        batches=batches,
    )


def tokens_of(num_seqs):
    return np.arange(num_seqs * CTX, dtype=np.int32).reshape(num_seqs, CTX)


def documents_of(num_seqs):
    return np.arange(num_seqs, dtype=np.int64).repeat(CTX).reshape(num_seqs, CTX) // 2


def layout(
    dtype="float32", codec="none", shard_chunks=None, *, chunk_seqs=3, widths=WIDTHS
):
    row = max(widths.values()) * _ITEM[dtype]
    return Layout(
        ctx=CTX,
        widths=dict(widths),
        dtype=dtype,
        chunk_bytes=chunk_seqs * CTX * row,
        codec=codec,
        shard_chunks=shard_chunks,
        provenance={"lm": "arrays"},
    )


def open_writer(place, layout, source):
    return StoreWriter(place, "train", layout, num_seqs=source.num_seqs)


def write(
    place,
    layout,
    source,
    batch_seqs,
    *,
    worker=0,
    num_workers=1,
    asked=lambda: False,
    report=lambda progress: None,
):
    """Do one worker's share of a harvest."""
    writer = open_writer(place, layout, source)
    settings = Settings(batch_seqs, RATIO)
    harvesting.write_groups(
        writer,
        source,
        settings,
        harvesting.share(writer, settings, worker, num_workers),
        split="train",
        asked=asked,
        report=report,
    )


def finish(place, layout, source, *, asked=lambda: False):
    writer = open_writer(place, layout, source)
    return finishing.finish(writer, source, RATIO, asked=asked)


def harvest(place, layout, source, batch_seqs):
    """Harvest a whole split, and return what is known of it at the end."""
    write(place, layout, source, batch_seqs)
    return finish(place, layout, source)
