"""A member with terms resumes bit for bit, with each of them and with all."""

import json
from typing import Any

import pytest
import torch

from tests.trilemma.kinds.samples import BATCH, D_IN, rows
from tests.trilemma.terms.test_end_to_end import TinyLM
from tests.trilemma.terms.training import member
from trilemma.config.terms import Terms
from trilemma.sequences import Sequences
from trilemma.terms.end_to_end import Splice
from trilemma.training_record import Checkpoint

STEPS, STOP = 20, 11
EACH: dict[str, dict[str, Any]] = {
    "input_weights": {"kind": "variance"},
    "incoherence": {"coefficient": 0.1},
    "load_balance": {"coefficient": 0.1},
    "monosemanticity": {"coefficient": 0.1},
    "end_to_end": {"coefficient": 0.1},
}
CHOSEN = {name: {name: settings} for name, settings in EACH.items()} | {"all": EACH}
LM = TinyLM(torch.randn(7, D_IN, generator=torch.Generator().manual_seed(0)))


def sequences_of(step: int) -> Sequences:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(7, (4, 6), generator=generator)
    zeros = torch.zeros_like(tokens)
    return Sequences(tokens, zeros, zeros.to(torch.uint8), LM.table[tokens])


def final(chosen: str, kind: str, stops: list[int]) -> Checkpoint:
    """Return the state after all steps, with a restart at each of the stops."""
    x = rows(STEPS * BATCH)
    config = Terms.model_validate(CHOSEN[chosen])
    needed = {
        "gamma": torch.linspace(0.5, 1.5, D_IN) if config.input_weights else None,
        "splice": Splice(LM, "hook", 1.0) if config.end_to_end else None,
    }
    state: Checkpoint | None = None
    for stop in [*stops, STEPS]:
        one = member(kind, config, x, num_steps=STEPS, **needed)
        if state is not None:
            one.restore(Checkpoint(state[0], json.loads(json.dumps(state[1]))))
        while one.step_index < stop:
            first = one.step_index * BATCH
            one.step(x[first : first + BATCH], sequences_of(one.step_index))
        state = one.state()
    assert state is not None
    return state


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
@pytest.mark.parametrize("chosen", CHOSEN)
def test_a_member_with_terms_resumes_bit_for_bit(chosen: str, kind: str) -> None:
    whole, stopped = (final(chosen, kind, stops) for stops in ([], [STOP]))
    assert whole.values == stopped.values
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, stopped.tensors[name]), name


@pytest.mark.parametrize("chosen", sorted(CHOSEN.keys() - {"all"}))
def test_every_term_changes_what_is_learned(chosen: str) -> None:
    with_it, with_all = (final(name, "topk", []).tensors for name in (chosen, "all"))
    assert not torch.equal(with_it["weights.W_dec"], with_all["weights.W_dec"])


def test_every_term_is_among_those_tested() -> None:
    assert EACH.keys() == Terms.model_fields.keys()
