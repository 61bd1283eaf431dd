"""Run by torchrun in several ranks: train every kind; each rank writes what it found.

python -m torch.distributed.run --nproc-per-node=2 -m tests.trilemma.ranked FOLDER
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_IN,
    SHARED,
    rows,
    start_of,
)
from tests.trilemma.kinds.transcoders import TRANSCODERS, targets
from tests.trilemma.terms.test_resuming import EACH, LM, sequences_of
from trilemma import ranks
from trilemma.config.saes import SAEConfig
from trilemma.config.terms import Terms
from trilemma.non_finite import NonFiniteLossError
from trilemma.ranks import Ranks
from trilemma.terms.end_to_end import Splice
from trilemma.training import Member
from trilemma.training_record import StepRow

STEPS = 30
NUM_ROWS = STEPS * BATCH - 7  # the last batch is smaller, and odd
BAD_ROW = BATCH - 2
RESAMPLED = {"resample_every_steps": 5, "resample_until_fraction": 0.7}
KINDS = CONFIGS | {
    f"{kind}-resampled": CONFIGS[kind].model_copy(update=RESAMPLED)
    for kind in ("topk", "tree")
}
KINDS |= {
    f"{kind}-{form}": CONFIGS[kind].model_copy(
        update={
            "terms": Terms.model_validate(
                EACH | {"load_balance": {"coefficient": 0.1, "form": form}}
            )
        }
    )
    for kind, form in (("topk", "squared"), ("relu", "switch"), ("batchtopk", "switch"))
}
KINDS |= {
    f"{name}-transcoder": TRANSCODERS[name].model_copy(update=RESAMPLED)
    for name in ("relu", "batchtopk-skip", "gated-skip")
}


def batches() -> list[Tensor]:
    """Return the batches of all ranks together."""
    return list(rows(NUM_ROWS).split(BATCH))


def member_in(place: Ranks, config: SAEConfig, precision: str = "float32") -> Member:
    """Return an SAE in training by these ranks."""
    shared = SHARED.model_copy(
        update={
            "log_every_steps": 1,
            "precision": precision,
            "ema_decay": 0.9,
            "eval_every_steps": 6,
        }
    )
    x, is_transcoder = rows(NUM_ROWS), config.target_hook is not None
    return Member(
        config,
        shared,
        start=start_of(x),
        target_start=start_of(targets(x)) if is_transcoder else None,
        num_steps=STEPS,
        key="one",
        device="cpu",
        held_out_rows=rows(BATCH),
        held_out_target=targets(rows(BATCH)) if is_transcoder else None,
        gamma=torch.linspace(0.5, 1.5, D_IN) if config.terms else None,
        splice=Splice(LM, "hook", 1.0) if config.terms else None,
        ranks=place,
    )


def step(member: Member, x: Tensor) -> StepRow | None:
    """Take one step on this rank's rows of a batch."""
    mine = x[member.ranks.share(len(x))]
    sequences = sequences_of(member.step_index)
    y = None if member.config.target_hook is None else targets(mine)
    return member.step(mine, sequences, y, num_elsewhere=len(x) - len(mine))


def trained(member: Member) -> Member:
    """Return the member after all its steps."""
    for x in batches()[member.step_index :]:
        step(member, x)
    return member


def resumed(place: Ranks, config: SAEConfig, stop: int) -> Member:
    """Return a member that was stopped after some steps, and went on elsewhere."""
    before = member_in(place, config)
    for x in batches()[:stop]:
        step(before, x)
    after = member_in(place, config)
    after.restore(before.state())
    return trained(after)


def scores(dtype: torch.dtype) -> Tensor:
    """Return pre-activations of a batch with many equal ones, and unequal halves."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(-9, 9, (22, 40), generator=generator).to(dtype)
    drawn[:7] += 5
    return drawn


def chosen(place: Ranks, dtype: torch.dtype) -> Tensor:
    """Return which of this rank's scores are kept."""
    mine = scores(dtype)[place.share(22)]
    return ranks.largest_in_all(mine, 3, num=66, ranks=place)


def refusal(place: Ranks) -> str:
    """Return what is said of a batch of which one rank has a bad row."""
    member, x = member_in(place, CONFIGS["batchtopk"]), batches()[0]
    x[BAD_ROW, 1] = torch.nan
    try:
        step(member, x)
    except NonFiniteLossError as error:
        return str(error)
    return "nothing"


def main(folder: Path) -> None:
    """Do all of it in this rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    place = Ranks(dist.get_rank(), dist.get_world_size())
    found: dict[str, Any] = {}  # `Any`: of every test its own
    for name, config in KINDS.items():
        member = trained(member_in(place, config))
        again = resumed(place, config, 13)
        found[name] = member.curve, member.state().tensors, again.state().tensors
    wide = trained(member_in(place, CONFIGS["batchtopk"], "bfloat16"))
    found["bfloat16"] = wide.curve
    for dtype in (torch.float32, torch.bfloat16):
        found[str(dtype)] = chosen(place, dtype)
    found["refusal"] = refusal(place)
    torch.save(found, folder / f"{place.rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
