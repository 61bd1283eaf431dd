"""Tests of what the report says of SAEs beside each other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.report import MemberReport, statistics
from tasks.report.rate_plot import rate_curves
from tasks.report.statistics import Statistics
from tests.tasks.report_samples import (
    document_sums,
    index,
    member,
    of_two_hooks,
    report,
    scalar,
    written,
)
from trilemma.metrics import parts


def sae(
    name: str,
    *,
    rate: float,
    fvu: float,
    poly: float = 0.5,
    spread: float = 0.01,
    **config: Any,
) -> MemberReport:
    values = {"rate_bits": rate, "fvu": fvu, "polysemanticity": poly}
    return member(
        name,
        rate=rate,
        fvu=fvu,
        config={"kind": name.partition("-")[0], "k": name} | config,
        metrics={key: scalar(value) for key, value in values.items()},
        parts=document_sums(values, spread=spread),
    )


def family(*members: MemberReport) -> Statistics:
    (found,) = statistics.of_report(report(*members))
    return found


def test_an_sae_that_is_better_on_every_axis_dominates_for_certain() -> None:
    (pair,) = family(
        sae("topk-a", rate=50, fvu=0.1, poly=0.4),
        sae("relu-b", rate=90, fvu=0.2, poly=0.8),
    ).pairs
    assert (pair.first, pair.second) == ("topk-a", "relu-b")
    assert (pair.first_dominates, pair.second_dominates) == (1, 0)
    assert all(d.is_distinguishable for d in pair.differences.values())


def test_saes_that_trade_one_axis_for_another_do_not_dominate() -> None:
    (pair,) = family(
        sae("topk-a", rate=50, fvu=0.3), sae("topk-b", rate=90, fvu=0.2)
    ).pairs
    assert (pair.first_dominates, pair.second_dominates) == (0, 0)


def test_a_small_difference_is_marked_as_not_distinguishable(tmp_path: Path) -> None:
    near = sae("topk-a", rate=50, fvu=0.2), sae("topk-b", rate=90, fvu=0.2)
    page = index(report(*near), tmp_path)
    # fvu and polysemanticity are equal; the rates are not.
    assert page.count('<span class="mark">not distinguishable</span>') == 2


def test_pairs_are_neighbours_in_rate_and_who_may_dominate() -> None:
    found = family(
        sae("topk-a", rate=30, fvu=0.3),
        sae("topk-c", rate=90, fvu=0.1),
        sae("topk-b", rate=60, fvu=0.2),
        sae("topk-d", rate=99, fvu=0.4),
    )
    assert [(p.first[-1], p.second[-1]) for p in found.pairs] == [
        ("a", "b"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
        ("c", "d"),
    ]


def test_seeds_of_a_configuration_are_one_row() -> None:
    found = family(
        *(
            sae(f"topk-k4-seed{seed}", rate=50 + seed, fvu=0.2, k=4, seed=seed)
            for seed in range(3)
        ),
        sae("topk-k8", rate=90, fvu=0.1, seed=0),
    )
    (seeds,) = found.seeds
    assert (seeds.name, seeds.num_seeds) == ("topk-k4", 3)
    assert seeds.spreads["rate_bits"].mean == 51
    assert seeds.spreads["rate_bits"].sd == 1
    assert [(p.first, p.second) for p in found.pairs] == [("topk-k4", "topk-k8")]


def test_families_are_read_off_at_a_rate_that_both_span() -> None:
    found = family(
        sae("topk-a", rate=20, fvu=0.4),
        sae("topk-b", rate=80, fvu=0.2),
        sae("relu-a", rate=20, fvu=0.5),
        sae("relu-b", rate=80, fvu=0.3),
    )
    (row,) = found.matched
    assert row.rate_bits == pytest.approx(40)
    assert row.values["fvu"] == pytest.approx((0.3, 0.4))
    assert row.differences["fvu"].value == pytest.approx(-0.1)
    assert row.differences["fvu"].is_distinguishable


def test_two_documents_may_leave_no_interval_at_a_common_rate(tmp_path: Path) -> None:
    rates = np.array([0.01, 1.99])
    members = [
        replace(
            sae(f"{kind}-{name}", rate=rate, fvu=0.2),
            parts=document_sums({"fvu": 0.2, "polysemanticity": 0.5})
            | parts.of_ratio("rate_bits", rate * rates, np.ones(2)),
        )
        for kind in ("topk", "relu")
        for name, rate in (("a", 20.0), ("b", 80.0))
    ]
    saved = json.loads(written(report(*members), tmp_path)["report.json"])
    (row,) = saved["statistics"][0]["matched"]
    found = row["differences"]["fvu"]
    assert found["value"] == pytest.approx(0)
    assert (found["ci_low"], found["standard_error"]) == (None, None)


def test_the_hypervolume_states_its_reference_and_grows_with_the_family() -> None:
    found = family(sae("topk-a", rate=50, fvu=0.4), sae("relu-a", rate=100, fvu=0.2))
    everyone, *alone = found.volumes
    assert found.reference == pytest.approx(
        {"rate_bits": 110, "fvu": 0.44, "polysemanticity": 0.55}
    )
    union = (6 / 11 * 4 / 44 + 1 / 11 * 24 / 44 - 1 / 11 * 4 / 44) / 11
    assert everyone.value == pytest.approx(union)
    assert everyone.ci_low < everyone.value < everyone.ci_high
    assert all(volume.value < everyone.value for volume in alone)


def test_the_page_names_the_sae_of_least_description_length(tmp_path: Path) -> None:
    wide, narrow = (
        sae("topk-wide", rate=100, fvu=0.1),
        sae("topk-narrow", rate=60, fvu=0.2),
    )
    page = index(report(wide, narrow), tmp_path)
    assert "fvu from 0.100 to 0.200: topk-wide, at most 100 bits/token" in page
    assert "fvu of 0.200 or more: topk-narrow, at most 60 bits/token" in page


def test_an_sae_without_all_axes_is_not_compared(tmp_path: Path) -> None:
    lone = sae("topk-a", rate=50, fvu=0.2)
    silent = member("topk-b", parts={})
    assert family(lone, silent).pairs == []
    page = index(report(lone, silent), tmp_path)
    assert "Fewer than two SAEs were measured on all three axes" in page


def test_hooks_are_compared_apart() -> None:
    members = [
        sae("topk-a", rate=50, fvu=0.2, hook="one"),
        sae("topk-b", rate=60, fvu=0.2, hook="two"),
    ]
    found = statistics.of_report(report(*members))
    assert [(s.hook, s.pairs) for s in found] == [("one", []), ("two", [])]


def test_a_transcoder_is_no_family_with_saes_of_its_target() -> None:
    found = statistics.of_report(of_two_hooks())
    names = [[volume.name for volume in each.volumes] for each in found]
    assert [each.hook for each in found] == ["A", "B"]
    assert names == [
        ["topk, 3 latents"],
        ["all SAEs", "topk, 3 latents", "topk, 3 latents, A -> B, skip"],
    ]


def test_each_published_sae_is_its_own_family() -> None:
    found = family(
        *(
            sae(f"published-{x}", rate=rate, fvu=0.2, kind="pretrained")
            for x, rate in (("a", 50), ("b", 60))
        )
    )
    names = [volume.name for volume in found.volumes]
    assert names == ["all SAEs", "published-a", "published-b"]


def test_more_polysemantic_curves_are_brighter() -> None:
    (plot,) = rate_curves(
        report(
            sae("topk-a", rate=50, fvu=0.2, poly=0.2),
            sae("topk-b", rate=60, fvu=0.2, poly=0.9),
        )
    )
    low, high = plot.figure["data"]
    assert (low["line"]["color"], high["line"]["color"]) == (
        "rgb(68, 1, 84)",
        "rgb(253, 231, 37)",
    )
    assert high["marker"]["color"] == [0.9] * 3


def test_the_json_holds_the_statistics(tmp_path: Path) -> None:
    saved = json.loads(written(report(), tmp_path)["report.json"])
    (found,) = saved["statistics"]
    assert found["pairs"][0]["differences"]["fvu"]["value"] == pytest.approx(0.1)
    assert "parts" not in saved["members"][0]
