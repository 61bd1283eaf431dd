"""SAEs that were trained a little, on activations of another scale than training's."""

import torch

from trilemma.config.saes import (
    BatchTopK,
    Gated,
    Group,
    JumpReLU,
    Matryoshka,
    ReLU,
    SAEConfig,
    TopK,
)
from trilemma.config.training import Training
from trilemma.sae import SAE
from trilemma.start import Start
from trilemma.training import Member

D_IN, D_SAE = 16, 64
CONFIGS: list[SAEConfig] = [
    ReLU(kind="relu", d_sae=D_SAE, l1_coefficient=0.5),
    JumpReLU(kind="jumprelu", d_sae=D_SAE, l0_coefficient=0.5),
    TopK(kind="topk", d_sae=D_SAE, k=4),
    TopK(kind="topk", d_sae=D_SAE, k=4, inference="matching_pursuit"),
    BatchTopK(kind="batchtopk", d_sae=D_SAE, k=4),
    Matryoshka(kind="matryoshka", d_sae=D_SAE, k=4, widths=(16, D_SAE)),
    Gated(kind="gated", d_sae=D_SAE, l1_coefficient=0.5),
    Group(kind="group", d_sae=D_SAE, l1_coefficient=0.5, group_size=4),
]


def rows() -> torch.Tensor:
    return 5 * torch.randn(640, D_IN, generator=torch.Generator().manual_seed(0)) + 1


def trained(config: SAEConfig) -> SAE:
    x = rows()
    start = Start(D_IN, x.mean(0), float(x.square().sum(1).mean()))
    member = Member(
        config,
        Training(log_every_steps=5),
        start=start,
        num_steps=10,
        key="one",
        device="cpu",
    )
    for batch in x.split(64):
        member.step(batch)
    return member.export()
