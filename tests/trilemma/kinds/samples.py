"""One config of every kind and form, small, and rows to train them on."""

import torch
from torch import Tensor

from trilemma import kinds, objective
from trilemma.config.saes import (
    BatchTopK,
    Gated,
    Group,
    JumpReLU,
    Matryoshka,
    ReLU,
    SAEConfig,
    TopK,
    Tree,
)
from trilemma.config.training import Training
from trilemma.kinds.kind import Batch, Kind
from trilemma.start import Start
from trilemma.training import Member
from trilemma.training_record import StepRow

D_IN, D_SAE, BATCH = 8, 64, 64
CONFIGS: dict[str, SAEConfig] = {
    "relu": ReLU(kind="relu", d_sae=D_SAE, l1_coefficient=0.5, penalty="l1", lr=1e-2),
    "relu-decoder-norm": ReLU(
        kind="relu",
        d_sae=D_SAE,
        l1_coefficient=0.5,
        penalty="l1_decoder_norm",
        lr=1e-2,
    ),
    "relu-lp": ReLU(
        kind="relu", d_sae=D_SAE, l1_coefficient=0.5, penalty="lp", p=0.5, lr=1e-2
    ),
    "relu-annealed": ReLU(
        kind="relu",
        d_sae=D_SAE,
        l1_coefficient=0.5,
        penalty="lp",
        p=1.0,
        p_end=0.0,
        p_anneal_start_fraction=0.25,
        lr=1e-2,
    ),
    "relu-log": ReLU(
        kind="relu",
        d_sae=D_SAE,
        l1_coefficient=0.5,
        penalty="log",
        log_scale=0.5,
        lr=1e-2,
    ),
    "gated": Gated(kind="gated", d_sae=D_SAE, l1_coefficient=0.5, lr=1e-2),
    "group": Group(
        kind="group", d_sae=D_SAE, l1_coefficient=0.5, group_size=4, lr=1e-2
    ),
    "tree": Tree(
        kind="tree", d_sae=D_SAE, l1_coefficient=0.5, num_roots=16, branching=2, lr=1e-2
    ),
    "jumprelu": JumpReLU(kind="jumprelu", d_sae=D_SAE, l0_coefficient=0.5, lr=1e-2),
    "jumprelu-target": JumpReLU(
        kind="jumprelu", d_sae=D_SAE, l0_coefficient=0.5, target_l0=3.0, lr=1e-2
    ),
    "jumprelu-tanh": JumpReLU(
        kind="jumprelu",
        d_sae=D_SAE,
        l0_coefficient=0.5,
        penalty="tanh",
        tanh_scale=4.0,
        pre_act_coefficient=3e-6,
        lr=1e-2,
    ),
    "topk": TopK(kind="topk", d_sae=D_SAE, k=2, lr=1e-2),
    "topk-annealed": TopK(
        kind="topk", d_sae=D_SAE, k=2, k_start=8, k_anneal_fraction=0.5, lr=1e-2
    ),
    "batchtopk": BatchTopK(kind="batchtopk", d_sae=D_SAE, k=2, lr=1e-2),
    "matryoshka": Matryoshka(
        kind="matryoshka", d_sae=D_SAE, k=2, widths=(8, 24, 64), lr=1e-2
    ),
}
SHARED = Training(batch_tokens=BATCH, dead_after_tokens=BATCH, log_every_steps=7)


def rows(num: int) -> Tensor:
    """Return heavy-tailed rows with a mean."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(num, D_IN, generator=generator)
    return 3 * (x * x.abs() + 0.2)


def start_of(x: Tensor) -> Start:
    """Return what an SAE knows of its activations before training."""
    return Start(x.shape[1], x.mean(0), float(x.double().square().sum(1).mean()))


def member_of(config: SAEConfig, x: Tensor, num_steps: int) -> Member:
    """Return an SAE in training on the CPU."""
    return Member(
        config, SHARED, start=start_of(x), num_steps=num_steps, key="one", device="cpu"
    )


def trained_by(member: Member, x: Tensor, stop: int) -> Member:
    """Return the member after its steps up to `stop`, on batches in turn."""
    num = len(x) // BATCH
    while member.step_index < stop:
        first = member.step_index % num * BATCH
        member.step(x[first : first + BATCH])
    return member


def measured(row: StepRow) -> dict[str, float]:
    """Return the numbers of a row; what was not measured has none."""
    return {k: v for k, v in row.items() if isinstance(v, (int, float))}


def disturbed(config: SAEConfig, kind: Kind) -> dict[str, Tensor]:
    """Return weights that are no special case: no zero bias, no equal thresholds."""
    weights = objective.initial_weights(
        config, kind, d_in=D_IN, b_dec=torch.zeros(D_IN)
    )
    generator = torch.Generator().manual_seed(2)
    return {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }


def batch_of(kind: Kind, x: Tensor) -> Batch:
    """Return a batch at the last step, where schedules have come to their end."""
    return Batch(x, 99, 100, kind.averages, torch.zeros(0, dtype=torch.int64))


def kind_of(name: str) -> Kind:
    """Return the kind of a sample."""
    return kinds.make(CONFIGS[name])
