"""What only a GPU can show: its numbers are the CPU's, but for rounding."""

import pytest
import torch
from torch import Tensor

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    SHARED,
    rows,
    start_of,
    trained_by,
)
from trilemma import codes, family
from trilemma.config.saes import SAEConfig
from trilemma.training import Member
from trilemma.training_record import StepRow

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
STEPS = 7


def member_on(
    device: str, config: SAEConfig, precision: str = "float32", key: str = "one"
) -> Member:
    return Member(
        config,
        SHARED.model_copy(update={"precision": precision}),
        start=start_of(rows(STEPS * BATCH)),
        num_steps=STEPS,
        key=key,
        device=device,
    )


def told(row: StepRow) -> list[float]:
    """Return what rounding changes little; a latent is dead or not."""
    return [row["loss"], row["fvu"], row["l0"]]


def decoded_on(device: str) -> list[Tensor]:
    """Return what pairs decode to, and the gradients of values and weights."""
    generator = torch.Generator().manual_seed(0)
    pre_acts, W_dec, wanted = (
        torch.randn(*shape, generator=generator)
        for shape in ((BATCH, 512), (512, 200), (BATCH, 200))
    )
    pairs = codes.where((pre_acts > 1.5).to(device))
    leaves = [each.to(device).requires_grad_() for each in (pre_acts, W_dec)]
    values = leaves[0].flatten().index_select(0, pairs.flat)
    x_hat = codes.decode(values, leaves[1], support=pairs)
    torch.autograd.backward((x_hat - wanted.to(device)).square().mean())
    found = [x_hat, *(leaf.grad for leaf in leaves)]
    return [each.detach().cpu() for each in found if each is not None]


def test_sparse_products_are_the_cpus() -> None:
    pairs = zip(decoded_on("cuda"), decoded_on("cpu"), strict=True)
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_first_curve_is_the_cpus(kind: str) -> None:
    x = rows(STEPS * BATCH)
    found, wanted = (
        trained_by(member_on(device, CONFIGS[kind]), x, STEPS).curve[0]
        for device in ("cuda", "cpu")
    )
    assert told(found) == pytest.approx(told(wanted), rel=1e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk", "batchtopk"])
def test_members_at_once_are_members_alone(kind: str, precision: str) -> None:
    x = rows(STEPS * BATCH)
    configs = [CONFIGS[kind], CONFIGS[kind].model_copy(update={"seed": 1})]
    together = [
        member_on("cuda", config, precision, key=str(config.seed)) for config in configs
    ]
    for step in range(STEPS):
        batch = x[step * BATCH : (step + 1) * BATCH].cuda()
        family.step_batched(together, batch, {"0": family.Read(), "1": family.Read()})
    for found, config in zip(together, configs, strict=True):
        alone = trained_by(member_on("cuda", config, precision), x, STEPS)
        wanted = told(alone.curve[0])
        assert told(found.curve[0]) == pytest.approx(wanted, rel=5e-2)
