"""One SAE in training: a step at a time, resumable at every step, bit for bit."""

import hashlib
import math
from typing import Any, NamedTuple, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from trilemma import activation_functions, codes, losses
from trilemma.codes import Support
from trilemma.config.saes import BatchTopK, JumpReLU, ReLU, SAEConfig, TopK, Training
from trilemma.formats import saelens
from trilemma.sae import SAE

# Thresholds start near zero and have to grow tenfold or more, which log(theta) does
# at this multiple of the learning rate while the weights settle.
THRESHOLD_LR_FACTOR = 20.0

# Steps between two looks at which latents are dead; each waits for the device.
DEAD_REFRESH_STEPS = 10


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient is not finite; the weights are those of the step before."""

    def __init__(self, key: str, step: int) -> None:
        super().__init__(
            f"training.{key}: found a loss or gradient that is not finite at step "
            f"{step}; lower lr, or look for extreme activations"
        )
        self.step = step


class Start(NamedTuple):
    """What an SAE needs to know of its activations before training."""

    d_in: int
    """Width of the activations."""
    mean: Float[Tensor, "d_in"]
    """Their mean, in their own units."""
    mean_squared_norm: float
    """The mean of ||x||^2, in their own units."""

    @property
    def scale(self) -> float:
        """Return what activations are multiplied by, so that E||x||^2 = d_in."""
        return math.sqrt(self.d_in / self.mean_squared_norm)

    @property
    def scaled_variance(self) -> float:
        """Return E||x - E x||^2 of scaled activations, summed over dimensions."""
        mean_square = float(self.mean.double().square().sum())
        return self.d_in * (1 - mean_square / self.mean_squared_norm)


class StepRow(TypedDict):
    """A row of the training curve, over the batch of that step."""

    step: int
    tokens: int
    loss: float
    fvu: float
    l0: float
    dead_fraction: float
    lr: float
    sparsity_coefficient: float


class Checkpoint(NamedTuple):
    """All that a member needs to go on as if it had never stopped."""

    tensors: dict[str, Tensor]
    """Weights, moments, counters and averages."""
    values: dict[str, Any]
    """The step, the tokens seen and the curve: JSON values (hence `Any`)."""


class _Terms(NamedTuple):
    loss: Tensor
    fvu: Tensor
    on: Tensor
    """Which pairs of the support have an activation above zero."""


class Member:
    """One SAE in training.

    Activations are scaled to E||x||^2 = d_in; b_dec starts at their mean. The loss is

        fvu + coefficient * penalty / d_in + auxk_coefficient * auxk

    with fvu the squared error over the variance of all training activations and the
    penalty the mean L1 or L0 of a row. It depends neither on the batch size nor on the
    units of the activations, and for centred ones it is the usual
    ||x - x_hat||^2 + coefficient * penalty, divided by d_in.

    Decoder rows keep unit norm in every kind: the gradient along a row is removed
    before the step and the row is normalised after it. Without that L1 could be evaded
    by small activations with large rows, and thresholds would have no fixed unit.
    """

    def __init__(
        self,
        config: SAEConfig,
        shared: Training,
        *,
        start: Start,
        num_steps: int,
        key: str,
        device: str | torch.device,
    ) -> None:
        if not (start.mean_squared_norm > 0 and start.scaled_variance > 0):
            raise ValueError(
                "training: found activations that do not vary; choose another hook "
                "or more rows"
            )
        self.config = config
        self.key = key
        self.step_index = 0
        self.curve: list[StepRow] = []
        self._shared = shared
        self._start = start
        self._num_steps = num_steps
        self._tokens = 0
        self._peak_lr = config.lr or 2e-4 / math.sqrt(config.d_sae / 2**14)
        self._weights = {
            name: tensor.to(device).requires_grad_(self._is_trained(name))
            for name, tensor in _initial_weights(config, start).items()
        }
        self._trained = [w for w in self._weights.values() if w.requires_grad]
        self._adam = torch.optim.Adam(
            [
                {"params": [w], "factor": _lr_factor(name)}
                for name, w in self._weights.items()
                if w.requires_grad
            ],
            lr=self._peak_lr, betas=(shared.beta1, shared.beta2), fused=True,
        )
        self._silent_tokens = torch.zeros(
            config.d_sae, dtype=torch.int64, device=device
        )
        self._dead = torch.zeros(0, dtype=torch.int64, device=device)
        self._cut = torch.zeros((), dtype=torch.float64, device=device)

    def step(self, x: Float[Tensor, "batch d_in"]) -> StepRow | None:
        """Take one step on a batch in its own units; return a row at logging steps.

        Raises:
            NonFiniteLossError: the weights are still those of the step before.
        """
        with torch.no_grad():
            x = x * self._start.scale
            pre_acts = torch.addmm(
                self._weights["b_enc"], x - self._weights["b_dec"],
                self._weights["W_enc"],
            )
            support = self._support(pre_acts)
        selected = codes.selected_pre_acts(
            x, self._weights["W_enc"], self._weights["b_enc"],
            self._weights["b_dec"], pre_acts=pre_acts, support=support,
        )
        coefficient = self._sparsity_coefficient()
        terms = self._terms(x, selected, support, coefficient)
        for weight in self._trained:
            weight.grad = None
        terms.loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._apply(terms.loss)
        self._count(selected.detach(), support, terms.on, len(x))
        return self._log(terms, len(x), coefficient)

    def state(self) -> Checkpoint:
        """Return a copy of all that changes in training."""
        tensors = {f"weights.{name}": w for name, w in self._weights.items()}
        for name, weight in self._weights.items():
            for moment, tensor in self._adam.state.get(weight, {}).items():
                tensors[f"adam.{name}.{moment}"] = tensor
        tensors["silent_tokens"] = self._silent_tokens
        tensors["dead"] = self._dead
        tensors["cut"] = self._cut
        values = {
            "step_index": self.step_index,
            "tokens": self._tokens,
            "curve": [dict(row) for row in self.curve],
        }
        copies = {name: t.detach().cpu().clone() for name, t in tensors.items()}
        return Checkpoint(copies, values)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint of a member with the same config, bit for bit."""
        tensors, values = checkpoint
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(tensors[f"weights.{name}"])
                prefix = f"adam.{name}."
                moments = {
                    full.removeprefix(prefix): tensor.clone().to(weight.device)
                    for full, tensor in tensors.items()
                    if full.startswith(prefix)
                }
                if moments:
                    self._adam.state[weight] = moments
        device = self._silent_tokens.device
        self._silent_tokens = tensors["silent_tokens"].clone().to(device)
        self._dead = tensors["dead"].clone().to(device)
        self._cut = tensors["cut"].clone().to(device)
        self.step_index = values["step_index"]
        self._tokens = values["tokens"]
        self.curve = [StepRow(**row) for row in values["curve"]]

    def export(self) -> SAE:
        """Return the SAE as it stands, in the units of the activations, on the CPU.

        BatchTopK becomes a JumpReLU with one threshold for all latents.
        """
        scale = self._start.scale
        weights = {
            name: weight.detach().cpu().clone()
            for name, weight in self._weights.items()
        }
        threshold = None
        if isinstance(self.config, JumpReLU):
            threshold = weights.pop("log_threshold").exp() / scale
        elif isinstance(self.config, BatchTopK):
            cut = float(self._cut) / scale
            threshold = torch.full_like(weights["b_enc"], cut)
        last = self.curve[-1] if self.curve else None
        return SAE(
            _EXPORTED_AS[self.config.kind],
            W_enc=weights["W_enc"], b_enc=weights["b_enc"] / scale,
            W_dec=weights["W_dec"], b_dec=weights["b_dec"] / scale,
            threshold=threshold,
            k=self.config.k if isinstance(self.config, TopK) else None,
            metadata={
                "training_architecture": self.config.kind,
                "l0": None if last is None else last["l0"],
                "trilemma": {
                    "config": self.config.model_dump(mode="json"),
                    "activation_scale": scale,
                    "num_steps": self.step_index,
                    "num_tokens": self._tokens,
                },
            },
        )

    def _is_trained(self, name: str) -> bool:
        is_frozen = isinstance(self.config, TopK) and self.config.freeze_decoder
        return not (is_frozen and name == "W_dec")

    def _support(self, pre_acts: Tensor) -> Support:
        """Return the pairs that this batch trains."""
        match self.config:
            case TopK(k=k):
                return codes.topk(pre_acts, k)
            case BatchTopK(k=k):
                return codes.batchtopk(pre_acts, k)
            case JumpReLU(bandwidth=bandwidth):
                # Pairs just below their threshold move it too.
                floor = self._weights["log_threshold"].exp() - bandwidth / 2
                return codes.above(pre_acts, floor)
            case ReLU():
                return codes.above(pre_acts, torch.zeros_like(pre_acts[0]))

    def _terms(
        self, x: Tensor, selected: Tensor, support: Support, coefficient: float
    ) -> _Terms:
        config, batch = self.config, len(x)
        penalty = None
        if isinstance(config, JumpReLU):
            threshold = self._weights["log_threshold"].exp()[support.columns]
            acts = activation_functions.jumprelu_ste(
                selected, threshold, bandwidth=config.bandwidth
            )
            penalty = losses.l0(
                selected, threshold, bandwidth=config.bandwidth, batch=batch
            )
        else:
            acts = torch.relu(selected)
        if isinstance(config, ReLU):
            penalty = losses.l1(acts, batch=batch)
        W_dec = self._weights["W_dec"]
        x_hat = codes.decode(acts, W_dec, support=support) + self._weights["b_dec"]
        fvu = losses.mse(x, x_hat) / self._start.scaled_variance
        loss = fvu
        if penalty is not None:
            loss = loss + coefficient / self._start.d_in * penalty
        if isinstance(config, TopK | BatchTopK) and len(self._dead) > 0:
            loss = loss + config.auxk_coefficient * self._auxk(x, x_hat)
        return _Terms(loss, fvu.detach(), acts.detach() > 0)

    def _auxk(self, x: Tensor, x_hat: Tensor) -> Tensor:
        weights, dead = self._weights, self._dead
        return losses.auxk(
            x - x_hat, x,
            weights["W_enc"].index_select(1, dead), weights["b_enc"][dead],
            weights["W_dec"].index_select(0, dead), weights["b_dec"],
            k=min(self._start.d_in // 2, len(dead)),
        )

    def _apply(self, loss: Tensor) -> None:
        """Change the weights by one step of Adam, if the loss and gradient allow it."""
        W_dec = self._weights["W_dec"]
        if W_dec.grad is not None:
            with torch.no_grad():
                along = (W_dec.grad * W_dec).sum(1, keepdim=True)
                W_dec.grad.addcmul_(along, W_dec, value=-1)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self._shared.clip_norm)
        if not torch.isfinite(loss.detach() + norm):
            raise NonFiniteLossError(self.key, self.step_index + 1)
        for group in self._adam.param_groups:
            group["lr"] = self._lr() * group["factor"]
        self._adam.step()
        if W_dec.requires_grad:
            with torch.no_grad():
                W_dec.copy_(functional.normalize(W_dec, dim=1))

    def _count(
        self, selected: Tensor, support: Support, on: Tensor, batch: int
    ) -> None:
        """Update the step, the tokens, the dead latents and BatchTopK's cut."""
        self.step_index += 1
        self._tokens += batch
        columns = support.columns[on]
        self._silent_tokens += batch
        self._silent_tokens[columns] = 0
        if isinstance(self.config, BatchTopK):
            smallest = torch.where(on, selected, torch.inf).min().double()
            # A running mean of the recent tenth until the decay takes over, so that a
            # short run does not average over its own beginnings.
            decay = min(
                self.config.threshold_decay,
                (self.step_index - 1) / (self.step_index + 9),
            )
            found = torch.isfinite(smallest)
            average = decay * self._cut + (1 - decay) * smallest
            self._cut = torch.where(found, average, self._cut)
        if self.step_index % DEAD_REFRESH_STEPS == 0:
            is_dead = self._silent_tokens >= self._shared.dead_after_tokens
            self._dead = is_dead.nonzero().squeeze(1)

    def _log(self, terms: _Terms, batch: int, coefficient: float) -> StepRow | None:
        step = self.step_index
        if step % self._shared.log_every_steps != 0 and step != self._num_steps:
            return None
        is_dead = self._silent_tokens >= self._shared.dead_after_tokens
        row = StepRow(
            step=step,
            tokens=self._tokens,
            loss=float(terms.loss.detach()),
            fvu=float(terms.fvu),
            l0=float(terms.on.sum()) / batch,
            dead_fraction=float(is_dead.double().mean()),
            lr=self._adam.param_groups[0]["lr"],
            sparsity_coefficient=coefficient,
        )
        self.curve.append(row)
        return row

    def _lr(self) -> float:
        """Return the learning rate of the step about to be taken."""
        step, total = self.step_index, self._num_steps
        warmup = self._shared.warmup_fraction * total
        decay = self._shared.decay_fraction * total
        rising = (step + 1) / warmup if warmup > 0 else 1.0
        falling = (total - step) / decay if decay > 0 else 1.0
        return self._peak_lr * min(1.0, rising, falling)

    def _sparsity_coefficient(self) -> float:
        config = self.config
        if isinstance(config, ReLU):
            peak = config.l1_coefficient
        elif isinstance(config, JumpReLU):
            peak = config.l0_coefficient
        else:
            return 0.0
        warmup = config.sparsity_warmup_fraction * self._num_steps
        return peak * min(1.0, (self.step_index + 1) / warmup) if warmup > 0 else peak


_EXPORTED_AS: dict[str, saelens.Activation] = {
    "relu": "relu", "topk": "topk", "jumprelu": "jumprelu", "batchtopk": "jumprelu",
}


def _lr_factor(name: str) -> float:
    return THRESHOLD_LR_FACTOR if name == "log_threshold" else 1.0


def _initial_weights(config: SAEConfig, start: Start) -> dict[str, Tensor]:
    """Return weights for scaled activations, from the config's seed alone."""
    digest = hashlib.sha256(f"{config.seed}/sae".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    rows = torch.randn(config.d_sae, start.d_in, generator=generator)
    W_dec = functional.normalize(rows, dim=1)
    weights = {
        "W_enc": W_dec.t().contiguous(),
        "b_enc": torch.zeros(config.d_sae),
        "W_dec": W_dec,
        "b_dec": (start.mean.double().cpu() * start.scale).float(),
    }
    if isinstance(config, JumpReLU):
        log_threshold = math.log(config.threshold_init)
        weights["log_threshold"] = torch.full((config.d_sae,), log_threshold)
    return weights
