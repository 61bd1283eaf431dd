"""Trilemma as a contestant of the training benchmark."""

from pydantic import TypeAdapter
from torch import Tensor

from benchmarks.trainers.serving import Contest, serve
from trilemma import allocation, objective
from trilemma.config.saes import SAEConfig
from trilemma.config.training import Training
from trilemma.start import Start
from trilemma.training import Member


class Ours:
    """A member of a family, in training alone."""

    def __init__(self, contest: Contest, rows: Tensor) -> None:
        mean_squared_norm = float(rows.square().sum(1).mean())
        warmup_fraction = contest.warmup_steps / contest.steps
        settings = {"kind": contest.kind, "d_sae": contest.d_sae, "lr": contest.lr}
        if contest.kind in ("topk", "batchtopk"):
            settings["k"] = contest.k
        else:
            penalty = {"relu": "l1_coefficient", "jumprelu": "l0_coefficient"}
            settings[penalty[contest.kind]] = contest.coefficient
            settings["sparsity_warmup_fraction"] = warmup_fraction
        config: SAEConfig = TypeAdapter(SAEConfig).validate_python(settings)
        self._member = Member(
            config,
            Training(
                batch_tokens=contest.batch,
                precision="bfloat16",
                warmup_fraction=warmup_fraction,
                decay_fraction=1 - warmup_fraction,
            ),
            start=Start(contest.d_in, rows.mean(0), mean_squared_norm),
            rows=rows[objective.rows_to_begin_as(config, len(rows))],
            num_steps=contest.steps,
            key="benchmark",
            device=contest.device,
        )

    def step(self, index: int, x: Tensor) -> None:
        """Take a step; the member counts for itself."""
        self._member.step(x)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights as they stand."""
        return {
            name: weight.detach()
            for name, weight in self._member.export().named_parameters()
        }


if __name__ == "__main__":
    with allocation.kept():  # as the training stage does
        serve(lambda contest, rows, start: Ours(contest, rows))
