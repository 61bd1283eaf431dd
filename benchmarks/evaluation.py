"""The pass that measures an SAE, and coding alone: `python -m benchmarks.evaluation`.

Each batch is first encoded and decoded by the SAE itself, then coded as the pass does
it (without the zeros of a TopK code), then shown to the pass, so all three take turns
within every second and share what else the machine does. The pass has every streaming
metric that needs no LM. What `evaluate` does after it (bootstraps, entropies, the bin
width, the PCA control on the first batch alone) is timed apart. Peak memory is that of
processes of their own.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import machine
from trilemma import allocation, evaluation
from trilemma.config.stages import Evaluation
from trilemma.evaluation import Baseline
from trilemma.metrics import coders, pca
from trilemma.sae import SAE
from trilemma.sequences import Sequences

CTX, BATCH_SEQS = 128, 32
SEQS_PER_DOCUMENT = 8
NUM_LABELS = 64
ACTIVE_DIRECTIONS = 8
_MIB = 1 << 20


class Arguments(NamedTuple):
    """What the command line says."""

    rows: int
    d_in: int
    d_sae: int
    k: int
    threads: int
    device: str


class Speed(NamedTuple):
    """Seconds of one run over all rows, batch by batch."""

    dense: list[float]
    """Of encode and decode."""
    sparse: list[float]
    """Of coding without zeros."""
    passing: list[float]
    """Of the pass."""
    ending: float
    """Of all that follows the last batch."""


def main() -> None:
    """Print speed and memory, and one line of ratios."""
    arguments, measured = _arguments()
    torch.set_num_threads(arguments.threads)
    if measured:
        with allocation.kept():  # as the evaluation stage does
            _run(arguments, has_rivals=False)
        # What `getrusage` says would include the parent's peak.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        (peak,) = [x for x in status.splitlines() if x.startswith("VmHWM:")]
        print(int(peak.split()[1]) << 10)
        return
    print(machine.line())
    with allocation.kept():
        speed = _run(arguments, has_rivals=True)
    print(
        f"{arguments.rows:,} tokens, d_in {arguments.d_in}, d_sae {arguments.d_sae}, "
        f"k {arguments.k}, {arguments.threads} threads, {arguments.device}"
    )
    rows = arguments.rows
    dense, sparse, passing = map(sum, (speed.dense, speed.sparse, speed.passing))
    print(f"encode and decode    {rows / dense:10,.0f} tokens/s")
    print(f"coding without zeros {rows / sparse:10,.0f} tokens/s")
    print(f"the whole pass       {rows / passing:10,.0f} tokens/s")
    print(f"what follows it      {speed.ending:10.1f} s")
    few, many = _peak(arguments, rows // 10), _peak(arguments, rows)
    print(f"peak memory          {few / _MIB:10,.1f} MiB at a tenth of the tokens")
    print(f"                     {many / _MIB:10,.1f} MiB at all of them")
    each = [a / b for a, b in zip(speed.dense, speed.passing, strict=True)]
    found = {
        "speed": dense / passing,
        "speed_median_of_batches": statistics.median(each),
        "speed_with_what_follows": dense / (passing + speed.ending),
        "speed_beside_coding_without_zeros": sparse / passing,
        "memory_growth": many / few - 1,
    }
    print(json.dumps({f"evaluation_{key}": round(x, 4) for key, x in found.items()}))


def _run(arguments: Arguments, *, has_rivals: bool) -> Speed:
    """Measure an SAE over all rows; rivals code each batch before the pass does."""
    sae = _sae(arguments)
    dense: list[float] = []
    sparse: list[float] = []
    passing: list[float] = []
    ended: list[float] = []

    def timed() -> Iterator[Sequences]:
        for batch in _batches(arguments, sae):
            if has_rivals:
                dense.append(_seconds(lambda x: sae.decode(sae.encode(x)), batch, sae))
                sparse.append(_seconds(lambda x: _code(sae, x), batch, sae))
            began = time.perf_counter()
            yield batch
            _synchronise(sae.W_dec.device)
            passing.append(time.perf_counter() - began)
        ended.append(time.perf_counter())

    def batches() -> Iterator[Sequences]:
        """Yield all rows to the pass, which comes first, and few to the control's."""
        return itertools.islice(_batches(arguments, sae), 1) if ended else timed()

    evaluation.evaluate(
        sae,
        Evaluation(num_clusters=NUM_LABELS),
        baseline=_baseline(arguments, sae),
        eval_batches=batches,
        lm=None,
        hook="random",
        control=None,
        features=None,
    )
    return Speed(dense, sparse, passing, time.perf_counter() - ended[0])


@torch.inference_mode()
def _seconds(work: Callable[[Tensor], object], batch: Sequences, sae: SAE) -> float:
    began = time.perf_counter()
    work(batch.x.reshape(-1, sae.d_in).to(sae.W_dec.device))
    _synchronise(sae.W_dec.device)
    return time.perf_counter() - began


def _code(sae: SAE, x: Tensor) -> None:
    for part in torch.split(x, coders.block_rows(sae.d_sae)):
        coders.code(sae, part)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _sae(arguments: Arguments) -> SAE:
    """Return an SAE of random unit directions, its encoder tied to its decoder."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.d_sae, arguments.d_in)
    W_dec = functional.normalize(torch.randn(shape, generator=generator), dim=1)
    return SAE(
        "topk",
        W_enc=W_dec.t().contiguous(),
        W_dec=W_dec,
        b_enc=torch.zeros(arguments.d_sae),
        b_dec=torch.zeros(arguments.d_in),
        k=arguments.k,
    ).to(arguments.device)


@torch.inference_mode()
def _batches(arguments: Arguments, sae: SAE) -> Iterator[Sequences]:
    """Yield batches that are made as they are asked for: noisy sums of directions."""
    W_dec = sae.W_dec.cpu()
    size = BATCH_SEQS * CTX
    for start in range(0, arguments.rows, size):
        num_rows = min(size, arguments.rows - start) // CTX * CTX
        generator = torch.Generator().manual_seed(start)
        chosen = torch.randint(
            arguments.d_sae, (num_rows, ACTIVE_DIRECTIONS), generator=generator
        )
        noise = torch.randn(num_rows, arguments.d_in, generator=generator)
        x = functional.embedding_bag(chosen, W_dec, mode="sum") + 0.02 * noise
        seqs = torch.arange(start // CTX, (start + num_rows) // CTX)
        yield Sequences(
            tokens=torch.zeros(len(seqs), CTX, dtype=torch.int64),
            document=(seqs // SEQS_PER_DOCUMENT)[:, None].expand(-1, CTX),
            mask=torch.zeros(len(seqs), CTX, dtype=torch.uint8),
            x=x.view(len(seqs), CTX, -1),
        )


def _baseline(arguments: Arguments, sae: SAE) -> Baseline:
    """Return a baseline of the rows, its clusters drawn at random."""
    num_rows = arguments.rows // CTX * CTX
    first = next(_batches(arguments, sae)).x.reshape(-1, arguments.d_in)
    mean = first.double().mean(0)
    components = pca.fit(first, mean=mean)
    labels = torch.randint(
        NUM_LABELS, (num_rows,), generator=torch.Generator().manual_seed(0)
    )
    return Baseline(
        documents=torch.arange(-(-num_rows // (CTX * SEQS_PER_DOCUMENT))),
        num_tokens=num_rows,
        mean=mean,
        labels=labels.int(),
        num_labels=NUM_LABELS,
        components=components,
        curve=pca.rate_curve(components, first),
        ce=None,
    )


def _peak(arguments: Arguments, rows: int) -> int:
    """Return the most bytes that the pass has resident in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.evaluation", "--measure-memory"]
    for name, value in arguments._replace(rows=rows)._asdict().items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    ended = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return int(ended.stdout)


def _arguments() -> tuple[Arguments, bool]:
    """Return what the command line says, and whether to print the peak alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1 << 20)
    parser.add_argument("--d-in", type=int, default=512)
    parser.add_argument("--d-sae", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure-memory", action="store_true", help="internal")
    words = vars(parser.parse_args())
    is_measured = words.pop("measure_memory")
    return Arguments(**words), is_measured


if __name__ == "__main__":
    main()
