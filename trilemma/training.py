"""One SAE in training: a step at a time, resumable at every step, bit for bit."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trilemma import exporting, held_out, kinds, objective, resampling
from trilemma import terms as added_terms
from trilemma.config.saes import SAEConfig
from trilemma.config.training import Training
from trilemma.kinds.kind import Averages, Batch, Forward, Weights
from trilemma.non_finite import NonFiniteLossError
from trilemma.optimizer import Optimizer
from trilemma.ranks import ALONE, Ranks
from trilemma.sae import SAE
from trilemma.sequences import Sequences
from trilemma.start import Start
from trilemma.terms.end_to_end import Splice
from trilemma.training_record import Checkpoint, StepRow

# Steps between two looks at which latents are dead; each waits for the device.
DEAD_REFRESH_STEPS = 10


class Member:
    """One SAE in training.

    Activations are scaled to E||x||^2 = d_in; b_dec starts at their centre. The loss is

        fvu + coefficient * penalty / d_in + auxk_coefficient * auxk

    with fvu the squared error over the variance of all training activations and the
    penalty the kind's own, such as the mean L1 or L0 of a row. It depends neither on
    the batch size nor on the units of the activations, and for centred ones it is the
    usual ||x - x_hat||^2 + coefficient * penalty, divided by d_in. `config.terms` may
    add to it, and `gamma` weighs the dimensions of the error; fvu in the curve is
    without it.

    A transcoder reconstructs other activations y than it reads. They are scaled alike,
    by a scale of their own, and stand for x in all of the above. What is read is
    centred by the constant centre of x, not by b_dec; on export both scales and that
    centre are folded into the weights.

    Latents begin as `rows` of the activations, in their own units, if there are any:
    those that `objective.rows_to_begin_as` names.

    Of a joint hook x is the hooks' rows side by side; its start says how wide each is,
    which only a penalty by decoder norms asks for.
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
        target_start: Start | None = None,
        rows: Float[Tensor, "num d_in"] | None = None,
        held_out_rows: Float[Tensor, "rows d_in"] | None = None,
        held_out_target: Float[Tensor, "rows d_out"] | None = None,
        gamma: Float[Tensor, "d_out"] | None = None,
        splice: Splice | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        assert (held_out_rows is None) == (shared.eval_every_steps is None)
        assert (target_start is None) == (config.target_hook is None)
        self.kind = kinds.make(config)
        target = start if target_start is None else target_start
        for name, each in (("hook", start), ("target_hook", target)):
            if not (each.mean_squared_norm > 0 and each.scaled_variance > 0):
                raise ValueError(
                    f"training: found activations of {name} that do not vary; choose "
                    "another or more rows"
                )
        resampling.check(config, shared, key=key, num_steps=num_steps)
        self.config = config
        self.key = key
        self.ranks = ranks
        self.step_index = 0
        self.curve: list[StepRow] = []
        self._shared = shared
        self._start = start
        self._target = target
        self._num_steps = num_steps
        self._tokens = 0
        self._device = torch.device(device)
        self._held_out_rows = held_out_rows
        self._held_out_target = held_out_target
        self._center: Tensor | None = None
        if target is not start:
            # Without any bias of the decoder the skip must not leave one either.
            center = start.scaled_center * config.decoder_bias
            self._center = center.to(device)
        self._added = added_terms.make(config.terms, self.kind.forward, splice)
        self._gamma = None if gamma is None else gamma.to(device)
        self._optimizer = Optimizer(
            config,
            shared,
            self.kind,
            d_in=start.d_in,
            b_dec=target.scaled_center,
            rows=None if rows is None else rows.cpu().float() * start.scale,
            variance=target.scaled_variance,
            num_steps=num_steps,
            device=self._device,
        )
        self._silent_tokens = torch.zeros(
            config.d_sae, dtype=torch.int64, device=device
        )
        self._dead = torch.zeros(0, dtype=torch.int64, device=device)
        self._averages: Averages = {
            name: tensor.to(device) for name, tensor in self.kind.averages.items()
        }

    @property
    def weights(self) -> Weights:
        """Return the weights, those that a step changes."""
        return self._optimizer.weights

    @property
    def peak_lr(self) -> float:
        """Return the highest learning rate of the run."""
        return self._optimizer.peak_lr

    def step(
        self,
        x: Float[Tensor, "batch d_in"],
        sequences: Sequences | None = None,
        y: Float[Tensor, "batch d_out"] | None = None,
        *,
        num_elsewhere: int = 0,
    ) -> StepRow | None:
        """Take one step on a batch in its own units; return a row at logging steps.

        The end-to-end term needs whole sequences besides, a transcoder the rows y of
        its target, in the order of those of x. Of a batch that several ranks
        share each gives its own rows, at least one, and says how many others have; all
        give the same sequences, and return the same.

        Raises:
            NonFiniteLossError: the weights are still those of the step before.

        """
        batch = self.batch(x, sequences, y, num_elsewhere=num_elsewhere)
        with self.autocast():
            lost = objective.of_batch(
                self.kind,
                self.weights,
                batch,
                variance=self.variance,
                added=self._added,
            )
        self._optimizer.backward(lost.loss)
        self.ranks.add_up(self._optimizer.grads)
        # The one wait for the device: afterwards the weights would be lost.
        return self.finish(batch, lost, self.gauge(lost.loss.detach()).tolist())

    def batch(
        self,
        x: Float[Tensor, "batch d_in"],
        sequences: Sequences | None = None,
        y: Float[Tensor, "batch d_out"] | None = None,
        *,
        num_elsewhere: int = 0,
    ) -> Batch:
        """Return a batch as the next step takes it; see `step`."""
        assert (y is None) == (self._target is self._start)
        return Batch(
            x=x.to(self._device, torch.float32) * self._start.scale,
            step=self.step_index,
            num_steps=self._num_steps,
            averages=self._averages,
            dead=self._dead,
            gamma=self._gamma,
            sequences=sequences,
            ranks=self.ranks,
            num_elsewhere=num_elsewhere,
            y=None
            if y is None
            else y.to(self._device, torch.float32) * self._target.scale,
            center=self._center,
            widths=self._start.widths,
        )

    @property
    def variance(self) -> float:
        """Return that of scaled activations, summed over dimensions."""
        return self._target.scaled_variance

    def autocast(self) -> torch.autocast:
        """Return the context in which products have the precision asked for."""
        is_wide = self._shared.precision == "bfloat16"
        return torch.autocast(self._device.type, torch.bfloat16, enabled=is_wide)

    def accept(self, grads: Weights) -> None:
        """Take gradients that were found elsewhere."""
        self._optimizer.accept(grads)

    @torch.no_grad()
    def gauge(self, loss: Float[Tensor, ""]) -> Float[Tensor, "2"]:
        """Return the norm of the gradient, and 1 where the loss is finite.

        What lies along decoder rows is removed from the gradient first.
        """
        norm = self._optimizer.norm()
        return torch.stack([norm, torch.isfinite(loss)])

    def finish(
        self, batch: Batch, lost: objective.BatchLoss, gauged: list[float]
    ) -> StepRow | None:
        """Take the step whose gradient the weights have; return a row if it is logged.

        Raises:
            NonFiniteLossError: the weights are still those of the step before.
        """
        self._apply(batch, *gauged)
        with torch.no_grad():
            self._count(batch, lost.forward)
            self._resample(batch, lost.forward)
            self._optimizer.average(self.step_index - 1)
        return self._log(lost, batch)

    def state(self) -> Checkpoint:
        """Return a copy of all that changes in training."""
        tensors = self._optimizer.tensors()
        tensors["silent_tokens"] = self._silent_tokens
        tensors["dead"] = self._dead
        for name, tensor in self._averages.items():
            tensors[f"averages.{name}"] = tensor
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
        self._optimizer.restore(tensors)
        device = self._silent_tokens.device
        self._silent_tokens = tensors["silent_tokens"].clone().to(device)
        self._dead = tensors["dead"].clone().to(device)
        for name in self._averages:
            self._averages[name] = tensors[f"averages.{name}"].clone().to(device)
        self.step_index = values["step_index"]
        self._tokens = values["tokens"]
        rows: list[StepRow] = values["curve"]
        self.curve = [row.copy() for row in rows]

    def export(self) -> SAE:
        """Return the SAE as it stands, in the units of the activations, on the CPU.

        BatchTopK becomes a JumpReLU with one threshold for all latents. Where there is
        a running mean of the weights, they are exported.
        """
        weights = self._optimizer.exported()
        return self._sae({name: w.cpu().clone() for name, w in weights.items()})

    def _sae(self, weights: Weights) -> SAE:
        return exporting.sae(
            self.config,
            self.kind,
            weights,
            self._averages,
            start=self._start,
            target=self._target,
            center=self._center,
            last=self.curve[-1] if self.curve else None,
            counts={"num_steps": self.step_index, "num_tokens": self._tokens},
        )

    def _apply(self, batch: Batch, norm: float, is_finite: float) -> None:
        """Change the weights by one step of Adam, if the loss and gradient allow it."""
        if not (is_finite and math.isfinite(norm)):
            is_bad = ~(batch.x.isfinite().all(dim=1) & batch.target.isfinite().all(1))
            rows = torch.cat(self.ranks.gathered(is_bad)).nonzero().flatten().tolist()
            raise NonFiniteLossError(self.key, self.step_index + 1, rows)
        self._optimizer.step(self.step_index, norm=norm)

    def _count(self, batch: Batch, forward: Forward) -> None:
        """Update the averages, the step, the tokens and the dead latents."""
        self._averages = self.kind.averaged(batch, forward)
        size = batch.num_rows
        self.step_index += 1
        self._tokens += size
        fired = self.ranks.any(forward.code.fired(self.config.d_sae))
        self._silent_tokens = torch.where(fired, 0, self._silent_tokens + size)
        if self.step_index % DEAD_REFRESH_STEPS == 0:
            self._dead = self._is_dead().nonzero().squeeze(1)

    def _is_dead(self) -> Bool[Tensor, "d_sae"]:
        return self._silent_tokens >= self._shared.dead_after_tokens

    def _resample(self, batch: Batch, forward: Forward) -> None:
        """Let dead latents begin anew, at the steps that do."""
        if not resampling.is_due(self.config, self.step_index, self._num_steps):
            return
        is_dead = self._is_dead()
        drawn = resampling.draw(
            is_dead,
            forward.code,
            (forward.x_hat - batch.target).square().sum(1),
            parents=self.kind.parents,
            seed=self.config.seed,
            step=self.step_index,
            ranks=self.ranks,
        )
        x, y = batch.x, batch.y
        whole = batch._replace(
            x=torch.cat(self.ranks.gathered(x)),
            y=None if y is None else torch.cat(self.ranks.gathered(y)),
        )
        fresh = resampling.fresh(
            drawn, whole, is_dead=is_dead, kind=self.kind, weights=self.weights
        )
        self._optimizer.renew(drawn.latents, fresh)
        self._silent_tokens.index_fill_(0, drawn.latents, 0)
        self._dead = self._is_dead().nonzero().squeeze(1)

    def _log(self, lost: objective.BatchLoss, batch: Batch) -> StepRow | None:
        found = None
        if self._held_out_rows is not None and self._is_due(
            self._shared.eval_every_steps
        ):
            sae = self._sae(self._optimizer.exported()).to(self._device)
            found = held_out.measure(sae, self._held_out_rows, self._held_out_target)
        elif not self._is_due(self._shared.log_every_steps):
            return None
        row = StepRow(
            step=self.step_index,
            tokens=self._tokens,
            loss=float(lost.loss.detach()),
            fvu=float(lost.fvu),
            l0=float(self.ranks.total(lost.forward.code.num_on())) / batch.num_rows,
            dead_fraction=float(self._is_dead().double().mean()),
            lr=self._optimizer.lr,
            sparsity_coefficient=self.kind.coefficient_at(batch.step, batch.num_steps),
            eval_fvu=None if found is None else found.fvu,
            eval_l0=None if found is None else found.l0,
            eval_silent_fraction=None if found is None else found.silent_fraction,
        )
        self.curve.append(row)
        return row

    def _is_due(self, every: int | None) -> bool:
        """Return whether this step is one of every so many, or the last."""
        if every is None:
            return False
        return self.step_index % every == 0 or self.step_index == self._num_steps
