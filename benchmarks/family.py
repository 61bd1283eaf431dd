"""A family against as many runs in turn: `python -m benchmarks.family`.

Eight TopK SAEs that differ in their seeds train on the same rows twice: as a family, as
the training stage steps one (at once on a GPU, one by one on a CPU), and each alone,
one after the other. Rows lie in memory; a batch is brought to the device and to float32
once for the family and eight times for the runs. The sides take turns: each round, both
run some steps of all their SAEs, in random order.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import machine, sparse_rows
from trilemma import allocation, family, objective
from trilemma.config.saes import TopK
from trilemma.config.training import Training
from trilemma.start import Start
from trilemma.training import Member

SHAPE = "512,4096,32,2048"
NUM_SAES, NUM_BATCHES = 8, 64
STORED = torch.float16


class Arguments(NamedTuple):
    """What the command line says."""

    shape: str
    rounds: int
    steps: int
    threads: int
    seed: int


class Result(NamedTuple):
    """What is known of a side after all rounds."""

    seconds: list[float]
    """In each round, of all its SAEs."""
    fvus: list[float]
    """Of each SAE on its last batch."""


def main() -> None:
    """Let both sides train; print a table and one line with their ratio."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with allocation.kept():  # as the training stage does
        found = results(arguments)
    tokens = NUM_SAES * arguments.steps * int(arguments.shape.split(",")[-1])
    print(machine.line())
    print(
        f"{NUM_SAES} SAEs of {arguments.shape} (d_in, d_sae, k, batch); "
        f"{arguments.rounds} rounds of {arguments.steps} steps, random order"
    )
    print(f"{'':8} {'tokens/s of all':>15} {'lowest':>11} {'highest':>11}  {'fvu':>7}")
    for name, result in found.items():
        speeds = [tokens / seconds for seconds in result.seconds]
        print(
            f"{name:8} {statistics.median(speeds):15,.0f} {min(speeds):11,.0f} "
            f"{max(speeds):11,.0f}  {statistics.mean(result.fvus):7.4f}"
        )
    pairs = zip(found["in turn"].seconds, found["family"].seconds, strict=True)
    ratio = statistics.median(in_turn / together for in_turn, together in pairs)
    print(json.dumps({"family_vs_in_turn": round(ratio, 3)}))


def results(arguments: Arguments) -> dict[str, Result]:
    """Return what the family, and the runs in turn, came to."""
    d_in, d_sae, k, batch = map(int, arguments.shape.split(","))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = _rows(d_in, d_sae, active=k, size=NUM_BATCHES * batch)
    mean_squared_norm = float(rows.square().sum(1).mean())
    start = Start(d_in, rows.mean(0), mean_squared_norm)
    stored = rows.to(STORED)
    # As the stage's reader does; a copy to a GPU need not wait then.
    pinned = stored.pin_memory() if device == "cuda" else stored
    batches = torch.split(pinned, batch)

    def members() -> list[Member]:
        configs = [
            TopK(kind="topk", d_sae=d_sae, k=k, seed=seed) for seed in range(NUM_SAES)
        ]
        return [
            Member(
                config,
                Training(batch_tokens=batch, precision="bfloat16"),
                start=start,
                num_steps=1 + arguments.rounds * arguments.steps,
                key=str(config.seed),
                device=device,
                rows=rows[objective.rows_to_begin_as(config, len(rows))],
            )
            for config in configs
        ]

    sides = {"family": [members()], "in turn": [[member] for member in members()]}
    for runs in sides.values():  # what is compiled or warms up is not timed
        _seconds(runs, batches, 1, device)
    order = random.Random(arguments.seed)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.rounds):
        for name in order.sample([*sides], len(sides)):
            seconds[name].append(
                _seconds(sides[name], batches, arguments.steps, device)
            )
    return {
        name: Result(seconds[name], [m.curve[-1]["fvu"] for run in runs for m in run])
        for name, runs in sides.items()
    }


def _seconds(
    runs: Sequence[list[Member]], batches: Sequence[Tensor], steps: int, device: str
) -> float:
    """Return how long the runs took, one after the other, for so many steps of each."""
    step = family.step_batched if device == "cuda" else family.step
    began = time.perf_counter()
    for members in runs:
        beside = {member.key: family.Read() for member in members}
        first = members[0].step_index
        for index in range(first, first + steps):
            read = batches[index % len(batches)]
            step(members, read.to(device, non_blocking=True).float(), beside)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _rows(d_in: int, num_features: int, *, active: int, size: int) -> Tensor:
    with tempfile.TemporaryDirectory(prefix="benchmark-family-") as folder:
        path = Path(folder) / "rows.safetensors"
        sparse_rows.write(
            path,
            d_in=d_in,
            num_features=num_features,
            active=active,
            sizes={"train": size},
        )
        return load_file(path)["train"]


def _arguments() -> Arguments:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default=SHAPE, help="d_in,d_sae,k,batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    return Arguments(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
