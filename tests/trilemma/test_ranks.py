"""Two processes that share each batch train as one that has all of it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trilemma import ranked
from tests.trilemma.kinds.samples import measured
from trilemma import selection
from trilemma.ranks import ALONE, Ranks

ROOT = Path(__file__).parents[2]
RANKS = 2
# A power below 1 is so steep near zero that rounding grows from step to step.
COMPARED = dict.fromkeys(ranked.KINDS, ranked.STEPS) | {
    "relu-lp": 3,
    "relu-annealed": 18,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each of two ranks found; `Any`: of every test its own."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={RANKS}", "-m", "tests.trilemma.ranked", str(folder)),
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("kind", ranked.KINDS)
def test_ranks_have_the_curve_of_one_process(
    kind: str, found: list[dict[str, Any]]
) -> None:
    alone = ranked.trained(ranked.member_in(ALONE, ranked.KINDS[kind])).curve
    for curve, _, _ in (each[kind] for each in found):
        assert len(curve) == ranked.STEPS
        pairs = list(zip(curve, alone, strict=True))[: COMPARED[kind]]
        for row, wanted in pairs:
            assert measured(row) == pytest.approx(measured(wanted), 1e-5, 1e-7)


@pytest.mark.parametrize("kind", ranked.KINDS)
def test_ranks_hold_the_same_bits(kind: str, found: list[dict[str, Any]]) -> None:
    (_, first, _), (_, second, _) = (each[kind] for each in found)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ranked.KINDS)
def test_ranks_resume_bit_for_bit(kind: str, found: list[dict[str, Any]]) -> None:
    _, whole, again = found[0][kind]
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_bfloat16_products_are_shared_too(found: list[dict[str, Any]]) -> None:
    wide = ranked.member_in(ALONE, ranked.KINDS["batchtopk"], "bfloat16")
    losses = [row["loss"] for row in ranked.trained(wide).curve]
    shared = [row["loss"] for row in found[0]["bfloat16"]]
    assert shared == pytest.approx(losses, rel=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ranks_keep_what_one_process_keeps_of_equal_entries(
    dtype: torch.dtype, found: list[dict[str, Any]]
) -> None:
    together = torch.cat([each[str(dtype)] for each in found])
    assert int(together[:11].sum()) > int(together[11:].sum())
    alone = selection.largest_in_batch(ranked.scores(dtype), 66)
    assert together.flatten().nonzero().flatten().tolist() == alone.tolist()


def test_a_bad_row_of_one_rank_is_named_by_all(found: list[dict[str, Any]]) -> None:
    assert f"rows {ranked.BAD_ROW} of its batch are not finite" in found[0]["refusal"]
    assert found[0]["refusal"] == found[1]["refusal"]


@pytest.mark.parametrize("num_rows", [3, 7, 12])
def test_the_ranks_of_a_batch_have_each_row_once(num_rows: int) -> None:
    parts = [range(num_rows)[Ranks(rank, 3).share(num_rows)] for rank in range(3)]
    assert [row for part in parts for row in part] == list(range(num_rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
