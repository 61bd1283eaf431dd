"""The weights of an SAE in training, and Adam, which changes them.

Decoder rows keep unit norm in every kind whose penalty does not weigh with their norms:
the gradient along a row is removed before the step and the row is normalised after it.
Without that L1 could be evaded by small activations with large rows, and thresholds
would have no fixed unit.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from trilemma import averaging, learning_rate, objective, unit_rows
from trilemma.config.saes import SAEConfig
from trilemma.config.training import Training
from trilemma.kinds.kind import Kind, Weights
from trilemma.weight_layout import laid_out, lying


class Optimizer:
    """Weights, their moments and, where `ema_decay` is set, their running means."""

    def __init__(
        self,
        config: SAEConfig,
        shared: Training,
        kind: Kind,
        *,
        d_in: int,
        b_dec: Float[Tensor, "d_out"],
        rows: Float[Tensor, "num d_out"] | None,
        variance: float,
        num_steps: int,
        device: torch.device,
    ) -> None:
        self.peak_lr = learning_rate.peak(config)
        self.weights = {
            name: laid_out(name, tensor.to(device)).requires_grad_(
                objective.is_trained(config, name)
            )
            for name, tensor in objective.initial_weights(
                config, kind, d_in=d_in, b_dec=b_dec, rows=rows
            ).items()
        }
        self._trained = {n: w for n, w in self.weights.items() if w.requires_grad}
        # The weights themselves, as they lie in memory: the same storage.
        self._dense = {n: lying(w.detach(), w) for n, w in self._trained.items()}
        self._adam = torch.optim.Adam(
            [
                {"params": [dense], "factor": kind.lr_factors.get(name, 1.0)}
                for name, dense in self._dense.items()
            ],
            lr=self.peak_lr,
            betas=(shared.beta1, shared.beta2),
            # Adam's usual 1e-8 for gradients of the summed error, as for clipping.
            eps=1e-8 / variance,
            fused=True,
        )
        self._means: Weights = {}
        if shared.ema_decay is not None:
            self._means = {n: w.detach().clone() for n, w in self._trained.items()}
        self._shared = shared
        self._num_steps = num_steps
        self._most = shared.clip_norm / variance
        self._has_unit_decoder = kind.has_unit_decoder

    @property
    def lr(self) -> float:
        """Return the learning rate of the last step."""
        lr: float = self._adam.param_groups[0]["lr"]
        return lr

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Give the weights the gradient of a loss, and no other."""
        for weight in self._trained.values():
            weight.grad = None
        torch.autograd.backward(loss)

    def accept(self, grads: Weights) -> None:
        """Take gradients that were found elsewhere."""
        for name, weight in self._trained.items():
            weight.grad = torch.empty_like(weight).copy_(grads[name])

    @property
    def grads(self) -> list[Tensor]:
        """Return the gradients that the weights have."""
        found = (weight.grad for weight in self._trained.values())
        return [grad for grad in found if grad is not None]

    @torch.no_grad()
    def norm(self) -> Float[Tensor, ""]:
        """Return the norm of the gradient, less what lies along decoder rows."""
        W_dec = self.weights["W_dec"]
        if W_dec.grad is not None and self._has_unit_decoder:
            unit_rows.remove_radial(W_dec.grad, W_dec)
        return torch.nn.utils.get_total_norm(self.grads)

    def step(self, index: int, *, norm: float) -> None:
        """Change the weights by a step of Adam, counted from 0.

        `norm` is that of the gradient, which is clipped.
        """
        if norm > self._most:
            torch.nn.utils.clip_grads_with_norm_(
                self._trained.values(), self._most, torch.tensor(norm)
            )
        lr = learning_rate.at(
            self.peak_lr, self._shared, step=index, num_steps=self._num_steps
        )
        for group in self._adam.param_groups:
            group["lr"] = lr * group["factor"]
        for name, weight in self._trained.items():
            grad = weight.grad
            self._dense[name].grad = None if grad is None else lying(grad, weight)
        self._adam.step()
        W_dec = self.weights["W_dec"]
        if W_dec.requires_grad and self._has_unit_decoder:
            unit_rows.normalize(W_dec)

    def average(self, index: int) -> None:
        """Take the weights after a step into their running means, if there are any."""
        if self._shared.ema_decay is not None:
            decay = averaging.decay_at(self._shared.ema_decay, index)
            averaging.update(self._means, self.weights, decay)

    def exported(self) -> Weights:
        """Return the weights as they are exported: their running means, if any."""
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        return weights | averaging.exported(
            self._means, has_unit_decoder=self._has_unit_decoder
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all that changes, by the names that checkpoints know it by."""
        found = {f"weights.{name}": w for name, w in self.weights.items()}
        for name, weight in self._trained.items():
            for moment, tensor in self._moments(name).items():
                found[f"adam.{name}.{moment}"] = lying(tensor, weight)
        return found | {f"means.{name}": mean for name, mean in self._means.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` returned, bit for bit."""
        for name, weight in self.weights.items():
            weight.copy_(tensors[f"weights.{name}"])
        for name, weight in self._trained.items():
            prefix = f"adam.{name}."
            moments = {
                full.removeprefix(prefix): lying(tensor, weight)
                for full, tensor in tensors.items()
                if full.startswith(prefix)
            }
            if moments:
                self._adam.state[self._dense[name]] = {
                    moment: tensor.to(weight.device).clone(
                        memory_format=torch.contiguous_format
                    )
                    for moment, tensor in moments.items()
                }
        for name, mean in self._means.items():
            mean.copy_(tensors[f"means.{name}"])

    @torch.no_grad()
    def renew(self, latents: Int64[Tensor, "num"], fresh: Weights) -> None:
        """Let latents begin anew: weights, their running means and moments."""
        for name, value in fresh.items():
            weight = self.weights[name]
            along = 1 if name == "W_enc" else 0
            weight.index_copy_(along, latents, value)
            if name in self._means:
                self._means[name].index_copy_(along, latents, value)
            moments = self._moments(name)
            for moment in ("exp_avg", "exp_avg_sq"):
                lying(moments[moment], weight).index_fill_(along, latents, 0)

    def _moments(self, name: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self._adam.state.get(self._dense[name], {})
        return found
