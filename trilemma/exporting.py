"""The SAE that one in training amounts to, in the units of the activations."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from trilemma.config.saes import SAEConfig
from trilemma.formats import folding
from trilemma.kinds.kind import Averages, Kind, Weights
from trilemma.sae import SAE
from trilemma.start import Start
from trilemma.training_record import StepRow


def sae(
    config: SAEConfig,
    kind: Kind,
    weights: Weights,
    averages: Averages,
    *,
    start: Start,
    target: Start,
    center: Float[Tensor, "d_in"] | None,
    last: StepRow | None,
    counts: Mapping[str, Any],
) -> SAE:
    """Return the SAE of these weights, which may share their memory.

    Of a transcoder `start` is of what it reads, `target` of what it reconstructs, and
    `center` what is subtracted from scaled rows; its latents are in the units of the
    latter. `last` is the last row of its training curve. `counts` (JSON values, hence
    `Any`) are recorded beside the config.
    """
    found = kind.export(weights, averages, target.scale)
    tensors, scales = found.tensors, {"activation_scale": start.scale}
    if "W_skip" in weights:
        tensors = tensors | {"W_skip": weights["W_skip"]}
    if center is not None:
        center = center.to(tensors["W_enc"].device) / start.scale
        tensors = folding.unscaled_input(
            tensors, scale=start.scale / target.scale, center=center
        )
        scales["target_scale"] = target.scale
    # Training knows the encoder's l0, not that of codes which are pursued.
    l0 = last and last["l0" if found.pursuit is None else "eval_l0"]
    return SAE(
        found.activation,
        **tensors,
        k=found.k,
        pursuit=found.pursuit,
        is_transcoder=center is not None,
        widths=start.widths,
        metadata={
            "training_architecture": config.kind,
            "l0": l0,
            "trilemma": {"config": config.recorded(), **scales, **counts},
        },
    )
