"""Quality beside SAELens's own trainer on its own data: `python -m benchmarks.quality`.

SAELens's synthetic generator draws rows with known features: SynthSAEBench in small,
with Zipf frequencies, a hierarchy, correlations and many more features than dimensions.
Its trainer and ours read the same rows in the same order, and its evaluator measures
both, ours as it loads our export: explained variance, MCC of decoder rows and features,
F1 of latents as detectors of features.

Equal for both: rows, order, batch, width, scaling of activations to norm sqrt(d_in),
Adam's betas, learning rate with its warm-up and decay, clipping at norm 1, sparsity
warm-up, the window after which a latent counts as dead. Each trainer's own, and all by
their defaults: initialisation, loss, auxiliary loss and its weight, decoder norms,
thresholds. L0 at inference is equal by k, or else by a search for the penalty's weight,
on each side and for each seed.

The default scale, two passes over 262,144 rows and 256 latents, is for a CPU.
"""

import argparse
import functools
import json
import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import TypeAdapter

from benchmarks import machine
from trilemma import objective
from trilemma.config.saes import SAEConfig
from trilemma.config.training import Training
from trilemma.start import Start
from trilemma.training import Member

D_SAE, K, BATCH, EPOCHS = 256, 4, 512, 2
WIDTHS = [D_SAE // 4, D_SAE // 2, D_SAE]  # of Matryoshka SAEs
# Matrices this small are no faster on two threads, which wait for each other.
THREADS = 1
LR = 3e-3  # 1e-2 gave SAELens's topk more EV and F1, less MCC; one seed
SPARSITY_WARMUP_FRACTION = 0.05
DEAD_AFTER_STEPS = 200  # of 1,024; SAELens's 1,000 would come at the very end
SCHEDULE = Training(batch_tokens=BATCH, dead_after_tokens=DEAD_AFTER_STEPS * BATCH)
# A search ends when L0 is this near to K; an L0 further away is not called equal.
L0_TOLERANCE, L0_EQUAL = 0.01, 0.03
MAX_TRIALS = 8
TRAINERS = ("ours", "SAELens")
METRICS = ("ev", "mcc", "f1")
SAELENS = Path(__file__).with_name("saelens_quality.py")

# `Any` below: settings of an SAE, of ours and of SAELens, as JSON values.


class Penalty(NamedTuple):
    """What brings L0 to K where no k does."""

    name: Literal["l1", "l0"]
    """As in `l1_coefficient`, on both sides."""
    ours: float
    """Where the search for our coefficient begins."""
    saelens: float
    """Where the search for SAELens's begins."""


class Kind(NamedTuple):
    """One kind of SAE on both sides; what is not set is left at its default."""

    ours: dict[str, Any]
    saelens: dict[str, Any]
    penalty: Penalty | None = None


KINDS = {
    "topk": Kind({"kind": "topk", "k": K}, {"architecture": "topk", "k": K}),
    "batchtopk": Kind(
        {"kind": "batchtopk", "k": K}, {"architecture": "batchtopk", "k": K}
    ),
    "relu": Kind(
        {"kind": "relu"}, {"architecture": "standard"}, Penalty("l1", 3.8, 4.1)
    ),
    "jumprelu": Kind(
        {"kind": "jumprelu"}, {"architecture": "jumprelu"}, Penalty("l0", 0.47, 2.4)
    ),
    "gated": Kind(
        {"kind": "gated"}, {"architecture": "gated"}, Penalty("l1", 3.8, 4.1)
    ),
    "matryoshka": Kind(
        {"kind": "matryoshka", "k": K, "widths": WIDTHS},
        {"architecture": "matryoshka_batchtopk", "k": K, "matryoshka_widths": WIDTHS},
    ),
}


class Arguments(NamedTuple):
    """What the command line says."""

    kinds: list[str]
    seeds: int
    rows: int
    peers_python: Path


class Fitted(NamedTuple):
    """One trained SAE, as SAELens measures it."""

    ev: float
    mcc: float
    f1: float
    l0: float
    dead: float
    seconds: float
    """Of this training alone, without the trials of a search before it."""


class SAELens:
    """SAELens in its own environment: a child that answers requests."""

    def __init__(self, python: Path, folder: Path, num_rows: int) -> None:
        self._log = folder / "saelens.log"
        numbers = (folder, num_rows, THREADS)
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [str(python), str(SAELENS), *map(str, numbers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.shape = self._answer()
        """num_features, d_in, l0 and eval_rows of its synthetic model."""

    def ask(self, do: str, **words: Any) -> dict[str, float]:
        """Return the answer to a request."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **words}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            log = self._log.read_text(encoding="utf-8")
            raise RuntimeError(f"SAELens failed: {log[-2000:]}")
        answer: dict[str, float] = json.loads(line)
        return answer


class Job(NamedTuple):
    """What one training needs to know."""

    kind: Kind
    saelens: SAELens
    folder: Path
    """Where `rows.npy` and the `order.npy` of its batches are, and the SAE goes."""
    seed: int


def main() -> None:
    """Train every kind on both sides; print a table and one line of figures."""
    arguments = _arguments()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory(prefix="benchmark-quality-") as name:
        folder = Path(name)
        with SAELens(arguments.peers_python, folder, arguments.rows) as saelens:
            shape = saelens.shape
            found = _fits(arguments, saelens, folder)
    print(machine.line())
    print(
        f"{shape['num_features']:,} features in {shape['d_in']} dimensions, "
        f"{shape['l0']:.2f} active; {EPOCHS} x {arguments.rows:,} rows in batches of "
        f"{BATCH:,}, lr {LR:g}; {D_SAE} latents, L0 {K}"
    )
    print(
        f"{arguments.seeds} seeds, mean and standard deviation; measured on "
        f"{shape['eval_rows']:,} other rows"
    )
    heads = "".join(f" {metric.upper():>15}" for metric in METRICS)
    print(f"{'':18}{heads} {'L0':>6} {'dead':>5} {'seconds':>8}")
    for (kind, trainer), fits in found.items():
        print(_row(kind, trainer, fits))
    print(json.dumps({kind: _summary(kind, found) for kind in arguments.kinds}))


def _row(kind: str, trainer: str, fits: Sequence[Fitted]) -> str:
    """Return a line of the table."""
    line = f"{kind:10}{trainer:8}"
    for metric in METRICS:
        values = [getattr(fit, metric) for fit in fits]
        line += f" {statistics.mean(values):7.4f} ±{_spread(values):6.4f}"
    l0, dead, seconds = (
        statistics.mean(getattr(fit, name) for fit in fits)
        for name in ("l0", "dead", "seconds")
    )
    return f"{line} {l0:6.2f} {dead:5.0f} {seconds:8.1f}"


def _summary(
    kind: str, found: Mapping[tuple[str, str], Sequence[Fitted]]
) -> dict[str, Any]:
    """Return a kind's means and spreads, and whether ours is below SAELens's.

    The spread that decides is that of both sides pooled.
    """
    sides = {trainer: found[kind, trainer] for trainer in TRAINERS}
    summary: dict[str, Any] = {}
    is_not_below = True
    for metric in METRICS:
        ours, theirs = ([getattr(fit, metric) for fit in f] for f in sides.values())
        spread = math.hypot(_spread(ours), _spread(theirs)) / math.sqrt(2)
        gap = statistics.mean(ours) - statistics.mean(theirs)
        is_not_below &= gap >= -spread
        summary[metric] = {
            "ours": [round(statistics.mean(ours), 4), round(_spread(ours), 4)],
            "saelens": [round(statistics.mean(theirs), 4), round(_spread(theirs), 4)],
        }
    for name in ("l0", "seconds"):
        ours, theirs = ([getattr(fit, name) for fit in f] for f in sides.values())
        summary[name] = {
            "ours": round(statistics.mean(ours), 2),
            "saelens": round(statistics.mean(theirs), 2),
        }
    summary["equal_l0"] = all(
        abs(fit.l0 / K - 1) <= L0_EQUAL for fits in sides.values() for fit in fits
    )
    summary["not_below"] = is_not_below
    return summary


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _fits(
    arguments: Arguments, saelens: SAELens, folder: Path
) -> dict[tuple[str, str], list[Fitted]]:
    """Return the SAEs of every kind and trainer, one for each seed."""
    found: dict[tuple[str, str], list[Fitted]] = {
        (name, trainer): [] for name in arguments.kinds for trainer in TRAINERS
    }
    coefficients = {
        (name, trainer): coefficient
        for name in arguments.kinds
        if (penalty := KINDS[name].penalty) is not None
        for trainer, coefficient in zip(TRAINERS, penalty[1:], strict=True)
    }
    num_batches = arguments.rows // BATCH
    for seed in range(arguments.seeds):
        draw = np.random.default_rng(seed)
        passes = [draw.permutation(num_batches) for _ in range(EPOCHS)]
        np.save(folder / "order.npy", np.concatenate(passes))
        for (name, trainer), fits in found.items():
            job = Job(KINDS[name], saelens, folder, seed)
            fit = functools.partial(_ours if trainer == "ours" else _theirs, job)
            searched = ""
            if (name, trainer) in coefficients:
                # The next seed's search begins where this one ended.
                trial = _at_k(fit, coefficients[name, trainer])
                coefficients[name, trainer] = trial.coefficient
                searched = f" at {trial.coefficient:.4g}"
                fits.append(trial.fitted)
            else:
                fits.append(fit(None))
            print(_row(name, trainer, fits[-1:]) + searched, flush=True)
    return found


class _Trial(NamedTuple):
    coefficient: float
    fitted: Fitted

    @property
    def miss(self) -> float:
        """Return the logarithm of how many times too large L0 is."""
        return math.log(max(self.fitted.l0, 1e-3) / K)


def _at_k(fit: Callable[[float], Fitted], coefficient: float) -> _Trial:
    """Return the first trial whose L0 is K, or the nearest of all.

    The secant method on logarithms: log L0 is nearly linear in that of the coefficient.
    No step is longer than a factor of four.
    """
    trials: list[_Trial] = []
    slope = -1.0
    while True:
        trials.append(_Trial(coefficient, fit(coefficient)))
        last = trials[-1]
        if abs(last.miss) <= L0_TOLERANCE or len(trials) == MAX_TRIALS:
            return min(trials, key=lambda trial: abs(trial.miss))
        if len(trials) > 1:
            before = trials[-2]
            run = math.log(last.coefficient / before.coefficient)
            slope = min((last.miss - before.miss) / run, -0.1)
        step = max(-math.log(4), min(math.log(4), -last.miss / slope))
        coefficient = last.coefficient * math.exp(step)


def _ours(job: Job, coefficient: float | None) -> Fitted:
    """Train an SAE of ours, and let SAELens measure its export."""
    settings = {**job.kind.ours, "d_sae": D_SAE, "lr": LR, "seed": job.seed}
    if job.kind.penalty is not None:
        settings[f"{job.kind.penalty.name}_coefficient"] = coefficient
        settings["sparsity_warmup_fraction"] = SPARSITY_WARMUP_FRACTION
    config: SAEConfig = TypeAdapter(SAEConfig).validate_python(settings)
    rows = torch.from_numpy(np.load(job.folder / "rows.npy", mmap_mode="c"))
    order = np.load(job.folder / "order.npy")
    began = time.perf_counter()
    mean, mean_squared_norm = rows.mean(0), float(rows.square().sum(1).mean())
    member = Member(
        config,
        SCHEDULE,
        start=Start(rows.shape[1], mean, mean_squared_norm),
        rows=rows[objective.rows_to_begin_as(config, len(rows))],
        num_steps=len(order),
        key=config.kind,
        device="cpu",
    )
    for index in order:
        member.step(rows[index * BATCH : (index + 1) * BATCH])
    seconds = time.perf_counter() - began
    member.export().save(job.folder / "sae")
    return _measured(job, seconds)


def _theirs(job: Job, coefficient: float | None) -> Fitted:
    """Let SAELens train an SAE with our schedule, and measure it."""
    num_steps = len(np.load(job.folder / "order.npy"))
    settings = {**job.kind.saelens, "d_sae": D_SAE}
    if job.kind.penalty is not None:
        warmup = int(SPARSITY_WARMUP_FRACTION * num_steps)
        settings[f"{job.kind.penalty.name}_coefficient"] = coefficient
        settings[f"{job.kind.penalty.name}_warm_up_steps"] = warmup
    trainer = {
        "total_training_samples": num_steps * BATCH,
        "train_batch_size_samples": BATCH,
        "lr": LR,
        "lr_end": LR,
        "lr_warm_up_steps": int(SCHEDULE.warmup_fraction * num_steps),
        "lr_decay_steps": int(SCHEDULE.decay_fraction * num_steps),
        "adam_beta1": SCHEDULE.beta1,
        "adam_beta2": SCHEDULE.beta2,
        "dead_feature_window": DEAD_AFTER_STEPS,
    }
    made = job.saelens.ask(
        "train",
        target=str(job.folder / "sae"),
        sae=settings,
        trainer=trainer,
        seed=job.seed,
    )
    return _measured(job, made["seconds"])


def _measured(job: Job, seconds: float) -> Fitted:
    found = job.saelens.ask("evaluate", target=str(job.folder / "sae"))
    return Fitted(**found, seconds=seconds)


def _arguments() -> Arguments:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=262_144)
    parser.add_argument(
        "--peers-python", type=Path, default=Path(".venv-peers/bin/python")
    )
    return Arguments(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
