"""Training steps against SAELens and others: `python -m benchmarks.training`.

Contestants of one kind start from the same weights, train on the same rows at the same
learning rate, and take turns: each round, every one runs some steps in random order. At
the end one evaluator measures all of them on rows that none has seen. relu and jumprelu
need coefficients that bring all to one L0; `--tune` measures them, once for a shape.
"""

import argparse
import json
import math
import random
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from benchmarks import (
    coefficients,
    contestants,
    machine,
    reconstruction,
    sparse_rows,
)
from benchmarks.contestants import KINDS, OURS
from benchmarks.reconstruction import Quality
from benchmarks.trainers.ours import Ours
from benchmarks.trainers.serving import Contest

SHAPES = ("512,8192,32,2048", "768,24576,64,4096")
TUNED = ("relu", "jumprelu")
RATIOS = (
    ("topk", "sparsify"),
    ("topk", "SAELens"),
    ("batchtopk", "SAELens"),
    ("relu", "SAELens"),
    ("jumprelu", "SAELens"),
)
# Products of batch x d_in x d_sae in a step. TopK kinds need the encoder's alone. Dense
# kinds are charged with all five of the plain formulation: encoder, decoder, and the
# gradients of acts, W_dec and W_enc; a trainer that skips zeros can exceed its share.
PRODUCTS = {"topk": 1, "batchtopk": 1, "relu": 5, "jumprelu": 5}
# In so few steps SAELens's jumprelu gets no sparser, whatever its coefficient.
L0_PER_K = {"jumprelu": 8}
NUM_BATCHES, HELD_OUT_ROWS = 64, 4096
WARMUP_FRACTION = 0.05


class Arguments(NamedTuple):
    """What the command line says."""

    shapes: list[str]
    kinds: list[str]
    rounds: int
    steps: int
    threads: int
    tune: bool
    peers: list[str]
    peers_python: Path
    seed: int


class Result(NamedTuple):
    """What is known of a contestant after all rounds."""

    speeds: list[float]
    """Tokens a second, in each round."""
    shares: list[float]
    """Of the rate that the machine reached in the same round, in the same precision."""
    dtype: str
    """Of the encoder's product."""
    quality: Quality


Found = dict[str, dict[str, dict[str, Result]]]
"""Results by shape, kind and contestant."""


def main() -> None:
    """Let all contestants train; print a table and one line of ratios."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if not arguments.peers_python.exists():
        print(f"no {arguments.peers_python}: peers are left out (make test-peers)")
    folder = Path(tempfile.mkdtemp(prefix="benchmark-training-"))
    found: Found = {}
    try:
        contests = [
            _contest(arguments, shape, kind, folder)
            for shape in arguments.shapes
            for kind in arguments.kinds
            if kind in TUNED or not arguments.tune
        ]
        if not arguments.tune:
            for contest in contests:  # a coefficient that is missing is said at once
                for name in _names(arguments, contest.kind):
                    _coefficient(contest, name)
        for contest in contests:
            _write(contest)
            if arguments.tune:
                _tune(arguments, contest, folder)
            else:
                results = _results(arguments, contest, folder)
                found.setdefault(_label(contest), {})[contest.kind] = results
    finally:
        shutil.rmtree(folder)
    if not arguments.tune:
        _print(arguments, found)


def _print(arguments: Arguments, found: Found) -> None:
    print(machine.line())
    print(
        f"{arguments.rounds} rounds of {arguments.steps} steps, random order; "
        f"{arguments.threads} threads"
    )
    print(
        f"{'shape':10} {'kind':9} {'':19} {'tokens/s':>9} {'lowest':>9} {'highest':>9}"
        f"  {'fvu':>7} {'l0':>6}  of the matmul rate"
    )
    for shape, kinds in found.items():
        for kind, results in kinds.items():
            for name, result in results.items():
                speeds, share = result.speeds, statistics.median(result.shares)
                print(
                    f"{shape:10} {kind:9} {name:19} {statistics.median(speeds):9,.0f} "
                    f"{min(speeds):9,.0f} {max(speeds):9,.0f}  "
                    f"{result.quality.fvu:7.4f} {result.quality.l0:6.1f}  "
                    f"{share:.3f} {result.dtype}"
                )
    print(json.dumps(_ratios(found)))


def _ratios(found: Found) -> dict[str, dict[str, float | dict[str, float] | None]]:
    """Return the medians over rounds; what a ratio compares ran in the same round."""
    ratios: dict[str, dict[str, float | dict[str, float] | None]] = {}
    for kind, peer in RATIOS:
        speeds: dict[str, float | dict[str, float] | None] = {}
        fvus: dict[str, float | dict[str, float] | None] = {}
        for shape, kinds in found.items():
            results = kinds.get(kind, {})
            if peer in results:
                ours, theirs = results[OURS], results[peer]
                pairs = zip(ours.speeds, theirs.speeds, strict=True)
                speeds[shape] = round(statistics.median(a / b for a, b in pairs), 2)
                fvus[shape] = round(ours.quality.fvu / theirs.quality.fvu, 4)
            else:
                speeds[shape] = fvus[shape] = None
        name = f"{kind}_vs_{peer.lower()}"
        ratios |= {name: speeds, f"{name}_fvu": fvus}
    ratios["matmul_fraction"] = {
        shape: {
            kind: round(statistics.median(results[OURS].shares), 3)
            for kind, results in kinds.items()
        }
        for shape, kinds in found.items()
    }
    return ratios


def _results(arguments: Arguments, contest: Contest, folder: Path) -> dict[str, Result]:
    """Return what all contestants of a kind came to, trained side by side."""
    order = random.Random(arguments.seed)
    seconds: dict[str, list[float]] = {}
    rates: list[dict[str, float]] = []
    with ExitStack() as stack:
        trainers = {
            name: stack.enter_context(
                contestants.started(
                    name,
                    contest._replace(coefficient=_coefficient(contest, name)),
                    folder=folder / name,
                    peers_python=arguments.peers_python,
                )
            )
            for name in _names(arguments, contest.kind)
        }
        for _ in range(arguments.rounds):
            rates.append({t.dtype: 0.0 for t in trainers.values()})
            for name in order.sample(
                [*trainers, *rates[-1]], len(trainers) + len(rates[-1])
            ):
                if name in trainers:
                    took = trainers[name].run(arguments.steps)
                    seconds.setdefault(name, []).append(took)
                else:
                    rates[-1][name] = _rate(contest, name)
        qualities = {
            name: reconstruction.quality(contest, trainer.weights())
            for name, trainer in trainers.items()
        }
    flops = 2 * PRODUCTS[contest.kind] * contest.d_in * contest.d_sae
    results = {}
    for name, trainer in trainers.items():
        speeds = [arguments.steps * contest.batch / took for took in seconds[name]]
        shares = [
            flops * speed / rate[trainer.dtype]
            for speed, rate in zip(speeds, rates, strict=True)
        ]
        results[name] = Result(speeds, shares, trainer.dtype, qualities[name])
        print(f"{_label(contest)} {contest.kind} {name}: {results[name]}", flush=True)
    return results


def _rate(contest: Contest, dtype: str) -> float:
    """Return the flops a second of the encoder's product with nothing around it."""
    return machine.matmul_rate(
        contest.batch,
        contest.d_in,
        contest.d_sae,
        dtype=getattr(torch, dtype),
        device=contest.device,
    )


def _tune(arguments: Arguments, contest: Contest, folder: Path) -> None:
    """Find and keep the coefficients that a kind's contestants do not have yet.

    Each search starts at what the contestant before it came to.
    """
    known = coefficients.known(contest)
    start = next(iter(known.values()), 1.0)
    for name in _names(arguments, contest.kind):
        if name in known:
            continue

        def measure(coefficient: float, name: str = name) -> float:
            with contestants.started(
                name,
                contest._replace(coefficient=coefficient),
                folder=folder / name,
                peers_python=arguments.peers_python,
            ) as trainer:
                trainer.run(contest.steps - 1)
                quality = reconstruction.quality(contest, trainer.weights())
            print(f"{name} at {coefficient:.4g}: {quality}", flush=True)
            return quality.l0

        tuned = coefficients.search(measure, target=contest.l0, start=start)
        coefficients.save(contest, name, tuned)
        start = tuned.coefficient


def _contest(arguments: Arguments, shape: str, kind: str, folder: Path) -> Contest:
    """Return what all contestants of a kind are told."""
    d_in, d_sae, k, batch = map(int, shape.split(","))
    steps = 1 + arguments.rounds * arguments.steps
    return Contest(
        kind=kind,
        d_in=d_in,
        d_sae=d_sae,
        k=k,
        l0=L0_PER_K.get(kind, 1) * k,
        batch=batch,
        coefficient=1.0,
        # Gao et al. (2024), "Scaling and evaluating sparse autoencoders", figure 3.
        lr=2e-4 / math.sqrt(d_sae / 2**14),
        steps=steps,
        warmup_steps=math.ceil(WARMUP_FRACTION * steps),
        threads=arguments.threads,
        device="cuda" if torch.cuda.is_available() else "cpu",
        rows=str(folder / f"{d_in}x{d_sae}.safetensors"),
        start=str(folder / f"{d_in}x{d_sae}-{kind}.safetensors"),
    )


def _write(contest: Contest) -> None:
    """Write the rows of a shape, if they are not there, and the initial weights."""
    if not Path(contest.rows).exists():
        sparse_rows.write(
            Path(contest.rows),
            d_in=contest.d_in,
            num_features=contest.d_sae,
            active=contest.k,
            sizes={"train": NUM_BATCHES * contest.batch, "held_out": HELD_OUT_ROWS},
        )
    rows = load_file(contest.rows)["train"]
    weights = Ours(contest._replace(device="cpu"), rows).weights()
    start = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(start, contest.start)


def _coefficient(contest: Contest, name: str) -> float | None:
    return coefficients.load(contest, name) if contest.kind in TUNED else None


def _names(arguments: Arguments, kind: str) -> Sequence[str]:
    if not arguments.peers_python.exists():
        return (OURS,)
    return [name for name in KINDS[kind] if name in (OURS, *arguments.peers)]


def _label(contest: Contest) -> str:
    return f"{contest.d_in}x{contest.d_sae}"


def _arguments() -> Arguments:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shapes", nargs="+", default=list(SHAPES), help="d_in,d_sae,k,batch"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=30, help="of a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tune", action="store_true", help="measure coefficients")
    peers = [name for name in contestants.MODULES if name != OURS]
    parser.add_argument(
        "--peers", nargs="+", choices=peers, default=peers, help="to train beside ours"
    )
    parser.add_argument(
        "--peers-python", type=Path, default=Path(".venv-peers/bin/python")
    )
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    return Arguments(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
