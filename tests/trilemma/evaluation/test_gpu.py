"""What only a GPU can show: an evaluation there has the CPU's numbers."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trilemma.evaluation.samples import known, measure, tied, tiny_lm
from tests.trilemma.lookup_lm import LookupLM
from trilemma import toys
from trilemma.config.stages import Evaluation
from trilemma.config.toys import Toy
from trilemma.evaluation import EvaluationResult
from trilemma.metrics.coders import Strongest
from trilemma.sequences import Sequences

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
PAIRS = Toy(num_features=16, d_in=16, co_occurrence=0.5, num_eval_tokens=4096, ctx=32)
TREES = Toy(
    num_features=16,
    d_in=16,
    density=0.2,
    tree={"depth": 2, "branching": 3, "child_probability": 0.5},
    num_eval_tokens=4096,
    ctx=32,
)


@dataclass(frozen=True)
class There:
    """An LM that takes what it is given to where it is, as the real one does."""

    lm: LookupLM
    device: str
    predicts_next: bool = True

    @classmethod
    def on(cls, device: str) -> "There":
        lm = tiny_lm()
        tables = lm.table.to(device), lm.unembedding.to(device)
        return cls(LookupLM(*tables, hooks=lm.hooks), device)

    def logits(self, tokens: Tensor) -> Tensor:
        return self.lm.logits(tokens.to(self.device))

    def logits_replaced(self, tokens: Tensor, hook: str, x_hat: Tensor) -> Tensor:
        return self.lm.logits_replaced(tokens, hook, x_hat.to(self.device))

    def embedding(self) -> Tensor:
        return self.lm.embedding()


def assert_alike(found: EvaluationResult, wanted: EvaluationResult) -> None:
    """Assert that numbers differ by rounding, and that the same ones are undefined."""
    pairs = [(found.metrics, wanted.metrics)]
    pairs += [(found.controls[name], wanted.controls[name]) for name in wanted.controls]
    for one, other in pairs:
        assert one.keys() == other.keys()
        for name, scalar in other.items():
            for number, expected in zip(one[name][:3], scalar[:3], strict=True):
                assert (number is None) == (expected is None), name
                if expected is not None:
                    near = pytest.approx(expected, rel=1e-3, abs=1e-6)
                    assert number == near, name
    for name, column in wanted.latents.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(
                found.latents[name], column, rtol=1e-3, atol=1e-6, err_msg=name
            )
        else:
            np.testing.assert_array_equal(found.latents[name], column, err_msg=name)
    assert found.details == pytest.approx(wanted.details, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("toy", [PAIRS, TREES])
def test_a_known_toy_scores_what_it_does_on_the_cpu(
    toy: Toy, config: Evaluation
) -> None:
    found, wanted = (
        known(tied(toys.features(toy).to(device)), config, toy)
        for device in ("cuda", "cpu")
    )
    assert_alike(found, wanted)


@pytest.mark.parametrize("threshold", [0.25, 100.0])
def test_an_lm_scores_what_it_does_on_the_cpu(
    threshold: float, config: Evaluation, text: Sequences
) -> None:
    probed = config.model_copy(update={"probe_rows": 1024})
    both = torch.cat([torch.eye(16), -torch.eye(16)])
    found, wanted = (
        measure(tied(both.to(device), threshold), probed, text, lm=There.on(device))
        for device in ("cuda", "cpu")
    )
    assert_alike(found, wanted)


def test_a_topk_code_scores_what_it_does_on_the_cpu(
    config: Evaluation, rows: Sequences, features: Tensor
) -> None:
    found, wanted = (
        measure(Strongest(tied(features.to(device)), 2), config, rows)
        for device in ("cuda", "cpu")
    )
    assert_alike(found, wanted)
