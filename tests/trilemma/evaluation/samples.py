"""SAEs, rows and an LM for tests of evaluation, and how to measure with them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.trilemma.lookup_lm import LookupLM
from trilemma import evaluation, toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.metrics.coders import Autoencoder, Coder
from trilemma.sequences import Sequences

CTX = 32
TOKEN_TEXT = [" the", "ing", "(", ")", " 42", " Paris", *"abcdefghijk"]
Batches = Callable[[], Iterator[Sequences]]


@dataclass
class Linear:
    """An SAE with ReLU latents above a threshold."""

    W_dec: Tensor
    W_enc: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: float = 0.0

    def encode(self, x: Tensor) -> Tensor:
        pre_acts = (x - self.b_dec) @ self.W_enc + self.b_enc
        return torch.where(pre_acts > self.threshold, pre_acts, 0.0)

    def decode(self, acts: Tensor) -> Tensor:
        return acts @ self.W_dec + self.b_dec


def tied(directions: Tensor, threshold: float = 0.25) -> Linear:
    """Return the SAE whose encoder is the transpose of its decoder."""
    d_sae, d_in = directions.shape
    return Linear(
        directions,
        directions.T,
        directions.new_zeros(d_sae),
        directions.new_zeros(d_in),
        threshold,
    )


def cut(whole: Sequences, sizes: list[int]) -> Batches:
    """Return batches of the given numbers of sequences."""

    def batches() -> Iterator[Sequences]:
        start = 0
        for size in sizes:
            yield Sequences(*(part[start : start + size] for part in whole))
            start += size
        assert start == len(whole.tokens)

    return batches


def rows_of(toy: Toy) -> Sequences:
    """Return held-out rows of a toy; a token is the strongest feature."""
    found = toys.sample(toy, split="eval", start=0, num=128 * CTX)
    return Sequences(
        tokens=found.strongest.reshape(128, CTX),
        document=torch.arange(128)[:, None].expand(128, CTX).contiguous(),
        mask=torch.zeros(128, CTX, dtype=torch.uint8),
        x=found.x.reshape(128, CTX, -1),
    )


def prepare(
    config: Evaluation, rows: Sequences, lm: "LookupLM | None" = None
) -> evaluation.Baseline:
    flat = rows.x.reshape(-1, rows.x.shape[-1])
    return evaluation.baseline(
        config,
        eval_batches=cut(rows, [128]),
        train_rows=flat,
        mean=flat.mean(0),
        lm=lm,
        hook="toy",
        token_text=None if lm is None else TOKEN_TEXT,
    )


def measure(
    sae: Coder,
    config: Evaluation,
    rows: Sequences,
    *,
    features: Tensor | None = None,
    sizes: tuple[int, ...] = (128,),
    lm: "LookupLM | None" = None,
) -> evaluation.EvaluationResult:
    return evaluation.evaluate(
        sae,
        config,
        baseline=prepare(config, rows, lm),
        eval_batches=cut(rows, list(sizes)),
        lm=lm,
        hook="toy",
        control=sae if isinstance(sae, Autoencoder) else None,
        features=features,
        token_text=None if lm is None else TOKEN_TEXT,
    )


def value(result: evaluation.EvaluationResult, name: str) -> float:
    found = result.metrics[name].value
    assert found is not None
    return found


def assert_sound(result: evaluation.EvaluationResult) -> None:
    """Assert that what is undefined says why, and that JSON can hold the rest."""
    for scalars in (result.metrics, *result.controls.values()):
        for name, scalar in scalars.items():
            assert (scalar.value is None) == bool(scalar.reason), name
            if scalar.value is None:
                assert scalar.ci_low is None and scalar.ci_high is None, name
        plain = {name: scalar._asdict() for name, scalar in scalars.items()}
        json.dumps(plain, allow_nan=False)
    json.dumps(result.details, allow_nan=False)


def tiny_lm() -> LookupLM:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(17, 16, generator=generator)
    # A token is most likely followed by itself.
    return LookupLM(table, table.T.contiguous() / 4, hooks=("toy", "written"))


def known(sae: Linear, config: Evaluation, toy: Toy) -> evaluation.EvaluationResult:
    """Return what is measured of an SAE whose toy is known."""
    rows = rows_of(toy)
    return evaluation.evaluate(
        sae,
        config,
        baseline=prepare(config, rows),
        eval_batches=cut(rows, [128]),
        lm=None,
        hook="toy",
        control=None,
        features=toys.features(toy),
        toy=toy,
    )
