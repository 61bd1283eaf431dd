"""Shuffled batches against raw reading and SAELens: `python -m benchmarks.store`."""

import argparse
import json
import mmap
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import machine, random_store
from benchmarks.random_store import CHUNK_ROWS, CTX, HOOK, Shape
from storage import gathering
from storage.order import TrainingOrder
from storage.store import Store
from trilemma.config.saes import TopK
from trilemma.config.training import Training
from trilemma.start import Start
from trilemma.training import Member

SHAPES = (
    ("float16", 512),
    ("float16", 2304),
    ("bfloat16", 512),
    ("bfloat16", 2304),
    ("float32", 512),
)
SHORT = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
# What SAELens serves, and what is trained on.
PEER, TRAINED = "fp32 512", "bf16 512"
OPEN_CHUNKS, BATCH_ROWS = 32, 4096
BUFFER_BYTES = 128 << 20
SAELENS = Path(__file__).with_name("saelens_reading.py")
# SAELens draws from a buffer of sequences: one of as many rows as our open chunks hold,
# which mixes as well, and a small one. It refuses less than a batch.
LARGE_BUFFER = OPEN_CHUNKS * CHUNK_ROWS // CTX
BUFFERS = {"SAELens": LARGE_BUFFER, "SAELens, small buffer": 64}
SAELENS_SEQS = 2 * LARGE_BUFFER
GROWTH, MEMORY_RUNS, MEMORY_OPEN_CHUNKS = 10, 5, 2
MEMORY_CHUNKS = 24  # fewer are never all open at once, and show too small a peak
TRAIN_ROWS, TRAIN_STEPS, D_SAE, K = 2048, 30, 8192, 32


class Arguments(NamedTuple):
    """What the command line says."""

    mib: int
    rounds: int
    peers_python: Path
    seed: int


class Waiting(NamedTuple):
    """Seconds of training, and those of them in which it waited for data."""

    total: float
    waited: float


def main() -> None:
    """Time all readers in random order; print a table and one line of ratios."""
    arguments = _arguments()
    folder = Path(tempfile.mkdtemp(prefix="benchmark-store-"))
    try:
        stores = _make_stores(folder, arguments.mib)
        speeds = _speeds(arguments, folder, stores)
        growth = _memory_growth(folder)
        waiting = _waiting(stores[TRAINED])
    finally:
        shutil.rmtree(folder)
    print(machine.line())
    print(
        f"{arguments.rounds} rounds, random order; {gathering.num_workers()} threads; "
        f"{OPEN_CHUNKS} chunks of {CHUNK_ROWS:,} rows; batches of {BATCH_ROWS:,}"
    )
    print(f"{'':22} {'rows/s':>11} {'GB/s':>6} {'of raw':>7} {'lowest':>11}")
    for name, found in speeds.items():
        print(_row(name, found, speeds, stores))
    print(f"training waited {waiting.waited:.2f} of {waiting.total:.1f} s for batches")
    print(json.dumps(_ratios(speeds, stores, growth, waiting)))


def _row(
    name: str,
    found: Sequence[float],
    speeds: Mapping[str, Sequence[float]],
    stores: Mapping[str, Store],
) -> str:
    """Return a line of the table; speeds are in rows a second."""
    middle = statistics.median(found)
    line = f"{name:22} {middle:11,.0f}"
    case = name.rpartition(" ")[0]
    if case in stores:
        gigabytes = middle * _row_bytes(stores[case]) / 1e9
        of_raw = middle / statistics.median(speeds[f"{case} raw"])
        line += f" {gigabytes:6.2f} {of_raw:7.3f}"
    else:
        line += " " * 15
    return f"{line} {min(found):11,.0f}"


def _ratios(
    speeds: Mapping[str, Sequence[float]],
    stores: Mapping[str, Store],
    growth: float,
    waiting: Waiting,
) -> dict[str, float | None]:
    middle = {name: statistics.median(found) for name, found in speeds.items()}
    ratios: dict[str, float | None] = {}
    for kind, label in (("unchecked", "read"), ("checked", "read_checked")):
        for case in stores:
            if case != PEER:
                ratio = middle[f"{case} {kind}"] / middle[f"{case} raw"]
                ratios[f"{label}_fraction_{case.replace(' ', '_')}"] = round(ratio, 4)
    for name in BUFFERS:
        label = name.lower().replace(",", "").replace(" ", "_")
        # Neither checks what it reads, as every epoch of ours but the first.
        ours, peer = middle[f"{PEER} unchecked"], middle.get(name)
        ratios[f"read_vs_{label}"] = None if peer is None else round(ours / peer, 2)
    ratios["wait_fraction"] = round(waiting.waited / waiting.total, 4)
    ratios["read_memory_growth"] = round(growth, 4)
    return ratios


def _make_stores(folder: Path, mib: int) -> dict[str, Store]:
    """Return a store for each shape, of at least one whole group of open chunks."""
    stores = {}
    for dtype, d_in in SHAPES:
        chunk_bytes = CHUNK_ROWS * Shape(dtype, d_in, 1).row_bytes
        count = max(OPEN_CHUNKS, (mib << 20) // chunk_bytes)
        name = f"{SHORT[dtype]} {d_in}"
        stores[name] = random_store.make(folder / name, Shape(dtype, d_in, count))
        print(f"made {stores[name]}", flush=True)
    return stores


def _speeds(
    arguments: Arguments, folder: Path, stores: Mapping[str, Store]
) -> dict[str, list[float]]:
    """Return the rows a second of every contestant, in each round."""
    contestants: dict[str, Callable[[], float]] = {}
    buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES))
    buffer[:] = bytes(BUFFER_BYTES)
    for case, store in stores.items():
        contestants[f"{case} raw"] = _raw(store, buffer)
        contestants[f"{case} unchecked"] = _shuffled(store, check=False)
        contestants[f"{case} checked"] = _shuffled(store, check=True)
    if not arguments.peers_python.exists():
        print(f"no {arguments.peers_python}: SAELens is left out (make test-peers)")
        return _rounds(arguments, contestants)
    numbers = (512, SAELENS_SEQS, BATCH_ROWS, gathering.num_workers())
    words = [str(SAELENS), str(folder / "saelens"), *map(str, numbers)]
    with subprocess.Popen(
        [str(arguments.peers_python), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        if process.stdout is None or process.stdout.readline().strip() != "ready":
            raise RuntimeError(
                "SAELens failed; run benchmarks/saelens_reading.py alone"
            )
        for name, num_seqs in BUFFERS.items():
            contestants[name] = _saelens(process, num_seqs)
        return _rounds(arguments, contestants)


def _rounds(
    arguments: Arguments, contestants: Mapping[str, Callable[[], float]]
) -> dict[str, list[float]]:
    order = random.Random(arguments.seed)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name in order.sample(list(contestants), len(contestants)):
            speeds[name].append(contestants[name]())
    return speeds


def _raw(store: Store, buffer: memoryview) -> Callable[[], float]:
    """Return what reads all chunk files into one buffer, over and over."""
    files = random_store.chunk_files(store)
    size = -(-files[0].stat().st_size // mmap.PAGESIZE) * mmap.PAGESIZE
    slots = len(buffer) // size
    threads = gathering.num_workers()

    def read(first: int) -> None:
        for index in range(first, len(files), threads):
            start = index % slots * size
            with files[index].open("rb", buffering=0) as file:
                file.readinto(buffer[start : start + size])

    def run() -> float:
        readers = [threading.Thread(target=read, args=(i,)) for i in range(threads)]
        began = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return store.num_tokens / (time.perf_counter() - began)

    return run


def _shuffled(store: Store, *, check: bool) -> Callable[[], float]:
    """Return what reads one epoch as training does, each chunk for the first time."""

    def run() -> float:
        order = TrainingOrder(
            store,
            HOOK,
            seed=0,
            batch_tokens=BATCH_ROWS,
            open_chunks=OPEN_CHUNKS,
            check=check,
        )
        began = time.perf_counter()
        rows = sum(map(len, order.batches(0, order.steps_per_epoch, prefetch=True)))
        return rows / (time.perf_counter() - began)

    return run


def _saelens(process: "subprocess.Popen[str]", num_seqs: int) -> Callable[[], float]:
    """Return what lets SAELens serve from a buffer of that size, by its own clock."""
    assert process.stdin is not None
    assert process.stdout is not None
    asks, answers = process.stdin, process.stdout

    def run() -> float:
        asks.write(f"{num_seqs}\n")
        asks.flush()
        rows, seconds = json.loads(answers.readline())
        return float(rows) / float(seconds)

    return run


def _memory_growth(folder: Path) -> float:
    """Return by what share peak memory grows with a store that is ten times larger."""
    peaks = []
    for count in (MEMORY_CHUNKS, MEMORY_CHUNKS * GROWTH):
        place = folder / f"memory-{count}"
        store = random_store.make(place, Shape("bfloat16", 512, count))
        found = [_peak_bytes(store) for _ in range(MEMORY_RUNS)]
        shutil.rmtree(place)
        peaks.append(statistics.median(found))
        print(f"read {store}: peak {peaks[-1] / 2**20:,.0f} MiB")
    return peaks[1] / peaks[0] - 1


def _peak_bytes(store: Store) -> int:
    """Return the most memory that a process of its own needs to read an epoch."""
    words = ["-m", "benchmarks.reading_memory", store.url, str(MEMORY_OPEN_CHUNKS)]
    ended = subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, text=True
    )
    return int(ended.stdout)


def _waiting(store: Store) -> Waiting:
    """Return how long a TopK SAE waits for batches, after its first step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    d_in = store.d_in(HOOK)
    member = Member(
        TopK(kind="topk", d_sae=D_SAE, k=K),
        Training(batch_tokens=TRAIN_ROWS),
        start=Start(d_in, store.mean(HOOK), float(d_in)),
        num_steps=TRAIN_STEPS,
        key="benchmark",
        device=device,
    )
    order = TrainingOrder(
        store, HOOK, seed=0, batch_tokens=TRAIN_ROWS, open_chunks=OPEN_CHUNKS
    )
    batches = order.batches(0, TRAIN_STEPS, prefetch=True, pin=device == "cuda")
    member.step(next(batches).to(device, non_blocking=True).float())
    waited = 0.0
    began = time.perf_counter()
    for _ in range(1, TRAIN_STEPS):
        asked = time.perf_counter()
        x = next(batches)
        waited += time.perf_counter() - asked
        member.step(x.to(device, non_blocking=True).float())
    return Waiting(time.perf_counter() - began, waited)


def _row_bytes(store: Store) -> int:
    return store.d_in(HOOK) * store.dtype(HOOK).itemsize


def _arguments() -> Arguments:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of a store")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--peers-python", type=Path, default=Path(".venv-peers/bin/python")
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    return Arguments(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
