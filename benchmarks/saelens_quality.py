"""SAELens's synthetic rows, trainer and evaluator, in the environment that has it.

Writes rows of a synthetic model; then each line on standard input is a request in JSON,
and each line on standard output its answer.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.synthetic import (
    FoldedNormalMagnitudeConfig,
    HierarchyConfig,
    LinearMagnitudeConfig,
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModel,
    SyntheticModelConfig,
    ZipfianFiringProbabilityConfig,
)
from sae_lens.synthetic.evals import eval_sae_on_synthetic_data
from sae_lens.training.sae_trainer import SAETrainer

# SynthSAEBench-16k (arXiv 2602.14687) in small: fewer features, dimensions and roots of
# the hierarchy, and a lower rank of the correlations.
NUM_FEATURES, D_IN = 512, 64
MODEL = SyntheticModelConfig(
    num_features=NUM_FEATURES,
    hidden_dim=D_IN,
    firing_probability=ZipfianFiringProbabilityConfig(
        exponent=0.5, max_prob=0.4, min_prob=5e-4
    ),
    hierarchy=HierarchyConfig(
        total_root_nodes=4,
        branching_factor=4,
        max_depth=3,
        mutually_exclusive_portion=1.0,
        compensate_probabilities=True,
    ),
    orthogonalization=OrthogonalizationConfig(num_steps=100, lr=3e-4),
    correlation=LowRankCorrelationConfig(rank=8, correlation_scale=0.1),
    std_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
    mean_firing_magnitudes=LinearMagnitudeConfig(start=5.0, end=4.0),
    bias=0.5,
    seed=0,
)
SAMPLE_ROWS, EVAL_SAMPLES = 8192, 8
NORM_BATCHES = 100

# `Any` below: requests and SAELens's settings are JSON values.


def main(folder: str, num_rows: int, threads: int) -> None:
    """Write the rows, then answer each request until there are no more."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = SyntheticModel(MODEL)
    held_out = Replay(
        [model.activation_generator.sample(SAMPLE_ROWS) for _ in range(EVAL_SAMPLES)]
    )
    make_rows(model, f"{folder}/rows.npy", num_rows)
    shape = {
        "num_features": NUM_FEATURES,
        "d_in": D_IN,
        "eval_rows": SAMPLE_ROWS * EVAL_SAMPLES,
        "l0": held_out.l0(),
    }
    print(json.dumps(shape), flush=True)
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        match request.pop("do"):
            case "train":
                answer = train(folder, **request)
            case "evaluate":
                answer = evaluate(model, held_out, **request)
        print(json.dumps(answer), flush=True)


class Replay:
    """Features drawn once, so that all SAEs are measured on the same rows."""

    def __init__(self, samples: list[torch.Tensor]) -> None:
        self._samples = samples
        self._next = itertools.cycle(samples)

    def sample(self, batch_size: int) -> torch.Tensor:
        """Return the next sample, as the evaluator asks for it."""
        found = next(self._next)
        assert len(found) == batch_size
        return found

    def l0(self) -> float:
        """Return how many features are active in a row."""
        active = sum(int((sample > 0).sum()) for sample in self._samples)
        return active / sum(map(len, self._samples))


def make_rows(model: SyntheticModel, path: str, num_rows: int) -> None:
    """Write rows of the synthetic model as one float32 array."""
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (num_rows, D_IN))
    for first in range(0, num_rows, SAMPLE_ROWS):
        part = rows[first : first + SAMPLE_ROWS]
        part[:] = model.sample(len(part)).numpy()
    rows.flush()


def train(
    folder: str, *, target: str, sae: dict[str, Any], trainer: dict[str, Any], seed: int
) -> dict[str, float]:
    """Save what SAELens's trainer makes of the rows in the given order."""
    torch.manual_seed(seed)
    batch = trainer["train_batch_size_samples"]
    settings = dict(sae)
    sae_class, config_class = get_sae_training_class(settings.pop("architecture"))
    config = config_class(
        d_in=D_IN, normalize_activations="expected_average_only_in", **settings
    )
    began = time.perf_counter()
    fitted = SAETrainer(
        SAETrainerConfig(n_batches_for_norm_estimate=NORM_BATCHES, **trainer),
        sae_class(config),
        # The norm is estimated on the first batches, which then come again.
        itertools.chain(
            itertools.islice(batches(folder, batch), NORM_BATCHES),
            batches(folder, batch),
        ),
    ).fit()
    seconds = time.perf_counter() - began
    fitted.save_inference_model(target)
    return {"seconds": seconds}


def batches(folder: str, batch: int) -> Iterator[torch.Tensor]:
    """Yield the rows, a batch at a time, in the order that the other trainer has."""
    rows = torch.from_numpy(np.load(f"{folder}/rows.npy", mmap_mode="c"))
    for index in np.load(f"{folder}/order.npy"):
        yield rows[index * batch : (index + 1) * batch]


def evaluate(
    model: SyntheticModel, held_out: Replay, *, target: str
) -> dict[str, float]:
    """Return SAELens's own figures of an SAE in its format, whoever trained it."""
    found = eval_sae_on_synthetic_data(
        SAE.load_from_disk(target),
        model.feature_dict,
        held_out,
        num_samples=SAMPLE_ROWS * EVAL_SAMPLES,
        batch_size=SAMPLE_ROWS,
    )
    return {
        "ev": found.explained_variance,
        "mcc": found.mcc,
        "f1": found.classification.f1_score,
        "l0": found.sae_l0,
        "dead": found.dead_latents,
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
