"""Harvest against the bare forward pass and SAELens: `python -m benchmarks.harvest`.

"bare" has the memory that a stage keeps for itself, as our harvest has; "plain" is the
same model in a process that asks the kernel for memory as any process does.
"""

import argparse
import itertools
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from benchmarks import bare, engine, machine
from benchmarks.bare import BATCH_SEQS, CTX, D_IN, LAYER, NUM_LAYERS, VOCAB
from storage.artifacts import COMMITS
from storage.store_writer import Layout
from tasks import harvesting
from trilemma import allocation
from trilemma import harvest as library
from trilemma.config.sources import Dtype
from trilemma.lm import LM, quiet

HOOK = f"blocks.{LAYER}.hook_resid_post"
CHUNK_BYTES = 16 << 20
END = "<|endoftext|>"
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")
# The bare model and our harvest take turns of so many batches, some seconds each: a
# machine that others share changes its speed from minute to minute.
TURN_BATCHES = 32
SAELENS = Path(__file__).with_name("saelens_harvest.py")


Contest = Callable[[int], Mapping[str, float]]
"""Takes a number of batches; returns the seconds that each contestant took for them."""


class Arguments(NamedTuple):
    """What the command line says."""

    seconds: float
    rounds: int
    peers_python: Path
    seed: int


def main() -> None:
    """Time all contestants in random order; print a table and one line of ratios."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="benchmark-harvest-"))
    try:
        _make_model(folder / "model")
        speeds = _speeds(arguments, folder)
    finally:
        shutil.rmtree(folder)
    print(machine.line())
    print(
        f"{arguments.rounds} rounds of at least {arguments.seconds:g} s, random order; "
        f"bare and harvest in turns of {TURN_BATCHES} batches"
    )
    print(f"{'':24} {'tokens/s':>9}  {'lowest':>8}  {'highest':>8}")
    for name, found in speeds.items():
        middle = statistics.median(found)
        print(f"{name:24} {middle:9,.0f}  {min(found):8,.0f}  {max(found):8,.0f}")
    print(json.dumps(_ratios(speeds)))


def _ratios(speeds: Mapping[str, list[float]]) -> dict[str, float | None]:
    """Return the medians over rounds; what a ratio compares ran in the same round."""

    def ratio(name: str, of: str) -> float | None:
        if of not in speeds:
            return None
        pairs = zip(speeds[name], speeds[of], strict=True)
        return round(statistics.median(ours / theirs for ours, theirs in pairs), 4)

    return {
        "forward_fraction_fp32": ratio("harvest float32", "bare float32"),
        "forward_fraction_bf16": ratio("harvest bfloat16", "bare bfloat16"),
        "plain_forward_fraction_fp32": ratio("harvest float32", "plain float32"),
        "plain_forward_fraction_bf16": ratio("harvest bfloat16", "plain bfloat16"),
        "vs_saelens_fp32": ratio("harvest float32", "SAELens float32"),
        "bf16_vs_saelens_fp32": ratio("harvest bfloat16", "SAELens float32"),
    }


def _speeds(arguments: Arguments, folder: Path) -> dict[str, list[float]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    contests: dict[str, Contest] = {}
    sizes: dict[str, int] = {}
    for dtype in DTYPES:
        blocks = bare.timed(folder / "model", getattr(torch, dtype), device)
        lm = LM.load(
            folder / "model",
            dtype=getattr(torch, dtype),
            device=device,
            processing="none",
            attention="sdpa",
        )
        contests[dtype] = _turns(blocks, lm, dtype, folder)
        with allocation.kept():
            blocks(TURN_BATCHES)
            rate = 2 * TURN_BATCHES / blocks(2 * TURN_BATCHES)
        turns = -(-int(arguments.seconds * rate) // TURN_BATCHES)
        sizes[dtype] = turns * TURN_BATCHES
        contests[f"plain {dtype}"] = _plain(dtype, folder, device)
        sizes[f"plain {dtype}"] = sizes[dtype]
    if arguments.peers_python.exists():
        contests["SAELens"] = _saelens(arguments.peers_python, folder, device)
        sizes["SAELens"] = sizes["float32"]
    else:
        print(f"no {arguments.peers_python}: SAELens is left out (make test-peers)")
    order = random.Random(arguments.seed)
    speeds: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for contest in order.sample([*contests], len(contests)):
            tokens = sizes[contest] * BATCH_SEQS * CTX
            for name, seconds in contests[contest](sizes[contest]).items():
                speeds.setdefault(name, []).append(tokens / seconds)
                print(f"{name}: {tokens:,} tokens in {seconds:.1f} s", flush=True)
    return speeds


def _turns(
    blocks: Callable[[int], float], lm: LM, dtype: Dtype, folder: Path
) -> Contest:
    """Return what times a whole harvest, the bare model's turns between its parts.

    Of the harvest that is chunks, statistics, masks and metadata. Before the bare model
    has its turn, the harvest's threads have written all that they were given.
    """
    chunk_seqs = CHUNK_BYTES // (D_IN * getattr(torch, dtype).itemsize * CTX)
    turn_parts = TURN_BATCHES * BATCH_SEQS // chunk_seqs

    def run(num_batches: int) -> dict[str, float]:
        tokens = bare.tokens(num_batches * BATCH_SEQS)
        target = folder / "harvest"
        target.mkdir()
        bare_seconds = between_seconds = 0.0

        def between(parts: int) -> None:
            nonlocal bare_seconds, between_seconds
            if parts % turn_parts:
                return
            while len([*(target / f"train{COMMITS}").glob("*")]) < parts:
                time.sleep(1e-3)
            began = time.perf_counter()
            bare_seconds += blocks(TURN_BATCHES)
            between_seconds += time.perf_counter() - began

        try:
            began = time.perf_counter()
            harvest(lm, tokens, dtype, target, between=between)
            seconds = time.perf_counter() - began - between_seconds
        finally:
            shutil.rmtree(target)
        return {f"bare {dtype}": bare_seconds, f"harvest {dtype}": seconds}

    return run


def harvest(
    lm: LM,
    tokens: np.ndarray[tuple[int, int], np.dtype[np.int32]],
    dtype: Dtype,
    target: Path,
    *,
    between: Callable[[int], None],
) -> None:
    """Leave a finished store of these tokens' activations in a folder.

    Before each part, `between` is told how many parts were handed to the writers.
    """
    parts = itertools.count()

    def batches(span: slice) -> Iterator[Mapping[str, Tensor]]:
        between(next(parts))
        return library.batches(lm, tokens[span], [HOOK], batch_seqs=BATCH_SEQS)

    source = harvesting.Source(
        num_seqs=len(tokens),
        tokens=lambda span: tokens[span],
        document=lambda span: np.repeat(
            np.arange(span.start, span.stop, dtype=np.int64)[:, None], CTX, axis=1
        ),
        mask=lambda part: library.mask_rows(part, lm.special_ids(), lm.pad_id),
        batches=batches,
    )
    layout = Layout(
        ctx=CTX,
        widths={HOOK: D_IN},
        dtype=dtype,
        chunk_bytes=CHUNK_BYTES,
        codec="none",
        shard_chunks=None,
        provenance={},
    )
    engine.harvest(target, source, layout, batch_seqs=BATCH_SEQS)


def _plain(dtype: Dtype, folder: Path, device: str) -> Contest:
    """Return what times the bare model in a process with any process's memory."""

    def run(num_batches: int) -> dict[str, float]:
        words = [sys.executable, "-m", "benchmarks.bare", str(folder / "model"), dtype]
        words += [device, str(num_batches), str(torch.get_num_threads())]
        ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        return {f"plain {dtype}": float(ended.stdout)}

    return run


def _saelens(python: Path, folder: Path, device: str) -> Contest:
    """Return what times SAELens's runner in its own environment, by its own clock."""

    def run(num_batches: int) -> dict[str, float]:
        target = folder / "saelens"
        words = [str(python), str(SAELENS), str(target), device]
        words += [str(num_batches * BATCH_SEQS), str(torch.get_num_threads())]
        try:
            ended = subprocess.run(words, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"SAELens failed: {error.stderr[-2000:]}") from error
        finally:
            shutil.rmtree(target, ignore_errors=True)
        found = json.loads(ended.stdout.splitlines()[-1])
        asked = num_batches * BATCH_SEQS * CTX  # it caches whole buffers: rather more
        seconds = float(found["seconds"]) * asked / int(found["tokens"])
        return {"SAELens float32": seconds}

    return run


def _make_model(folder: Path) -> None:
    """Save a GPT-NeoX in Pythia-70m's shape, its weights drawn at random."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=VOCAB,
        hidden_size=D_IN,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=8,
        intermediate_size=4 * D_IN,
        max_position_embeddings=2048,
        rotary_pct=0.25,
    )
    words = {f"w{i}": i for i in range(VOCAB - 1)} | {END: VOCAB - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with quiet():
        GPTNeoXForCausalLM(config).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=END
        ).save_pretrained(folder)


def _arguments() -> Arguments:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="least of a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peers-python", type=Path, default=Path(".venv-peers/bin/python")
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    return Arguments(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
