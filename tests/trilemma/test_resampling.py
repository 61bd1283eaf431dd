"""Dead latents begin anew: which rows they take, and what becomes of their weights."""

import pytest
import torch

from tests.trilemma.kinds import transcoders
from tests.trilemma.kinds.samples import (
    BATCH,
    CONFIGS,
    D_SAE,
    SHARED,
    member_of,
    rows,
    start_of,
    trained_by,
)
from trilemma import codes, kinds, resampling
from trilemma.codes import Code
from trilemma.ranks import ALONE
from trilemma.training import Member

STEPS = 40
ROUND = 20
NO_CODE = Code(torch.zeros(8, D_SAE), None)


def resampled(kind, every=ROUND, until=0.5):
    settings = {"resample_every_steps": every, "resample_until_fraction": until}
    return CONFIGS[kind].model_copy(update=settings)


def drawn(error, dead, seed=0, step=4, parents=None, code=NO_CODE):
    is_dead = torch.zeros(D_SAE, dtype=torch.bool)
    is_dead[dead] = True
    return resampling.draw(
        is_dead, code, error, parents=parents, seed=seed, step=step, ranks=ALONE
    )


def wide_rows(num):
    """Return rows of sparse features, in 64 dimensions."""
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(96, 64, generator=generator)
    code = torch.rand(num, 96, generator=generator)
    is_on = torch.rand(num, 96, generator=generator) < 0.05
    noise = torch.randn(num, 64, generator=generator)
    return (code * is_on) @ features + 0.2 * noise


def before_a_round(kind):
    """Return rows and two equal members whose every third latent is dead.

    Only the second one resamples, and does so at the next step.
    """
    x = wide_rows(STEPS * BATCH)
    state = trained_by(member_of(CONFIGS[kind], x, STEPS), x, ROUND - 1).state()
    for name in ("b_enc", "b_mag"):
        if f"weights.{name}" in state.tensors:
            state.tensors[f"weights.{name}"][::3] -= 1e3
    state.tensors["silent_tokens"][::3] = 10 * BATCH
    members = [member_of(c, x, STEPS) for c in (CONFIGS[kind], resampled(kind))]
    for member in members:
        member.restore(state)
    return x, *members


def at_a_round(kind):
    """Return the states of two such members after the step."""
    x, plain, anew = before_a_round(kind)
    return [trained_by(m, x, ROUND).state().tensors for m in (plain, anew)]


def renewed(plain, anew):
    """Return the latents that differ, with a decoder row at least."""
    return (plain["weights.W_dec"] != anew["weights.W_dec"]).any(1)


def test_rows_are_drawn_in_proportion_to_their_squared_loss():
    error = torch.tensor([0.0, 1.0, 2.0, 4.0, 0.5, 0.0, 1.0, 3.0])
    counts = torch.zeros(8)
    for seed in range(4000):
        counts[drawn(error, [5], seed=seed).rows] += 1
    expected = error.square() / error.square().sum()
    # Four standard errors of a share.
    assert ((counts / 4000 - expected).abs() <= 4 * (expected / 4000).sqrt()).all()
    assert counts[[0, 5]].tolist() == [0, 0]


def test_no_row_is_taken_twice_and_latents_left_over_wait():
    error = torch.tensor([0.0, 1.0, 2.0, 4.0, 0.5, 0.0, 1.0, 3.0])
    found = drawn(error, range(20))
    assert found.latents.tolist() == [0, 1, 2, 3, 4, 5]
    assert sorted(found.rows.tolist()) == [1, 2, 3, 4, 6, 7]


def test_a_perfect_reconstruction_and_no_dead_latent_draw_nothing():
    assert len(drawn(torch.zeros(8), range(20)).latents) == 0
    assert len(drawn(torch.ones(8), []).latents) == 0


def test_rows_depend_on_seed_and_step_alone():
    error = torch.rand(8, generator=torch.Generator().manual_seed(1))
    first = drawn(error, range(4))
    assert torch.equal(first.rows, drawn(error, range(4)).rows)
    others = [drawn(error, range(4), step=step).rows for step in range(5, 15)]
    others += [drawn(error, range(4), seed=seed).rows for seed in range(1, 11)]
    assert not all(torch.equal(first.rows, other) for other in others)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_in_a_tree_a_latent_takes_a_row_on_which_its_parent_fires(is_sparse):
    parents = kinds.make(CONFIGS["tree"]).parents
    x = rows(STEPS * BATCH)
    member = trained_by(member_of(CONFIGS["tree"], x, STEPS), x, STEPS)
    acts = member.export().encode(x[:BATCH]).detach()
    code = Code(acts, None)
    if is_sparse:
        pairs = codes.where(acts > 0)
        code = Code(acts.flatten()[pairs.flat], pairs)
    is_dead = torch.ones(D_SAE, dtype=torch.bool)
    found = resampling.draw(
        is_dead,
        code,
        torch.ones(BATCH),
        parents=parents,
        seed=0,
        step=4,
        ranks=ALONE,
    )
    above = parents[found.latents]
    is_child = above >= 0
    assert is_child.any()
    assert (acts[found.rows[is_child], above[is_child]] > 0).all()
    assert len(found.rows.unique()) == len(found.rows)
    silent = (acts == 0).all(0)
    waiting = set(range(D_SAE)) - set(found.latents.tolist())
    assert {j for j in range(16, D_SAE) if silent[parents[j]]} <= waiting


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_latent_begins_anew_along_a_row_of_the_batch(kind):
    plain, anew = at_a_round(kind)
    is_new = renewed(plain, anew)
    assert is_new.any()
    x = wide_rows(STEPS * BATCH)
    batch = x[(ROUND - 1) * BATCH : ROUND * BATCH] * start_of(x).scale
    direction = torch.nn.functional.normalize(batch - anew["weights.b_dec"], dim=1)
    W_dec, W_enc = anew["weights.W_dec"][is_new], anew["weights.W_enc"].t()
    cosine, row = (W_dec @ direction.t()).max(1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    is_alive = plain["silent_tokens"] < SHARED.dead_after_tokens
    share = 1.0 if "k" in type(CONFIGS[kind]).model_fields else 0.2
    norm = share * plain["weights.W_enc"].t()[is_alive].norm(dim=1).mean()
    torch.testing.assert_close(W_enc[is_new], norm * direction[row])


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_s_latent_begins_along_what_is_read_and_what_is_missing(skip):
    x, y = transcoders.pairs(STEPS * BATCH)
    settings = resampled("topk").model_dump() | transcoders.HOOKS | {"skip": skip}
    config = type(CONFIGS["topk"]).model_validate(settings)
    member = transcoders.transcoder_of(config, x, y, STEPS)
    state = transcoders.trained_by(member, x, y, ROUND - 1).state()
    state.tensors["weights.b_enc"][::3] -= 1e3
    state.tensors["silent_tokens"][::3] = 10 * BATCH
    member.restore(state)
    transcoders.trained_by(member, x, y, ROUND)
    weights = {name: w.detach() for name, w in member.weights.items()}
    is_new = member.state().tensors["silent_tokens"] == 0
    is_new &= torch.arange(D_SAE) % 3 == 0
    assert is_new.any()
    batch = slice((ROUND - 1) * BATCH, ROUND * BATCH)
    start, target = start_of(x), start_of(y)
    read = x[batch] * start.scale - start.scaled_center
    wanted = y[batch] * target.scale - weights["b_dec"]
    if skip:
        wanted = wanted - read @ weights["W_skip"]
    cosines = [
        torch.nn.functional.normalize(rows, dim=1)
        @ torch.nn.functional.normalize(others[is_new], dim=1).t()
        for rows, others in ((read, weights["W_enc"].t()), (wanted, weights["W_dec"]))
    ]
    # One and the same row of the batch in both.
    found = torch.minimum(*cosines).amax(0)
    torch.testing.assert_close(found, torch.ones_like(found))


@pytest.mark.parametrize("kind", CONFIGS)
def test_biases_thresholds_and_gates_go_back_to_their_start(kind):
    plain, anew = at_a_round(kind)
    is_new = renewed(plain, anew)
    starts = {"b_enc": torch.zeros(D_SAE)} | kinds.make(CONFIGS[kind]).added_weights
    for name, start in starts.items():
        assert torch.equal(anew[f"weights.{name}"][is_new], start[is_new]), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_adam_forgets_the_latents_that_begin_anew_and_no_others(kind):
    plain, anew = at_a_round(kind)
    is_new = renewed(plain, anew)
    assert (anew["silent_tokens"][is_new] == 0).all()
    for name, tensor in anew.items():
        if "b_dec" in name or tensor.ndim == 0 or D_SAE not in tensor.shape:
            continue
        along = tensor.t() if "W_enc" in name else tensor
        before = plain[name].t() if "W_enc" in name else plain[name]
        assert torch.equal(along[~is_new], before[~is_new]), name
        if name.startswith("adam"):
            assert (along[is_new] == 0).all(), name
    assert torch.equal(plain["weights.b_dec"], anew["weights.b_dec"])


@pytest.mark.parametrize("kind", CONFIGS)
def test_most_latents_that_begin_anew_fire_in_the_next_steps(kind):
    x, plain, anew = before_a_round(kind)
    states = [trained_by(m, x, ROUND).state().tensors for m in (plain, anew)]
    is_new = renewed(*states)
    trained_by(anew, x, ROUND + 3)
    silent = anew.state().tensors["silent_tokens"][is_new]
    assert float((silent < 3 * BATCH).double().mean()) > 0.75


def test_no_latent_begins_anew_after_the_share_of_the_run():
    config = resampled("topk", every=4, until=0.25)
    steps = range(1, STEPS + 1)
    assert [s for s in steps if resampling.is_due(config, s, STEPS)] == [4, 8]


def test_where_no_latent_is_alive_all_give_the_norm():
    x = rows(STEPS * BATCH)
    config = resampled("relu")
    member = member_of(config, x, STEPS)
    state = member.state()
    state.tensors["weights.b_enc"].fill_(-1e6)
    state.tensors["silent_tokens"].fill_(10 * BATCH)
    member.restore(state)
    trained_by(member, x, ROUND)
    assert torch.isfinite(member.state().tensors["weights.W_enc"]).all()
    assert (member.state().tensors["silent_tokens"] == 0).all()


def test_resampling_that_can_find_no_dead_latent_is_an_error():
    x = rows(STEPS * BATCH)
    late = SHARED.model_copy(update={"dead_after_tokens": 21 * BATCH})
    line = (
        r"^training one: found resample_every_steps 20, but at step 20 of 40, its "
        r"last, no latent can have been silent for 1,344 tokens; lower "
        r"training\.dead_after_tokens or train longer$"
    )
    with pytest.raises(ValueError, match=line):
        Member(
            resampled("relu"),
            late,
            start=start_of(x),
            num_steps=STEPS,
            key="one",
            device="cpu",
        )
