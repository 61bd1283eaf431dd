"""Which SAEs the report compares, and what its figures show of them."""

from typing import get_args

import plotly.graph_objects

from tasks.report import labels
from tasks.report.comparison import Verdict, subjects, verdict
from tasks.report.plots import curves, scatters
from tasks.report.rate_plot import rate_curves
from tests.tasks.report_samples import (
    document_sums,
    member,
    of_two_hooks,
    report,
    scalar,
)
from trilemma.config.saes import SAEConfig
from trilemma.metrics import parts
from trilemma.metrics.scalar import Scalar


def compared(
    sae: Scalar, control: Scalar, kept: parts.Arrays | None = None
) -> Verdict | None:
    return verdict(sae, control, control="pca", metric="fvu", kept=kept or {})


def test_values_without_intervals_are_compared_alone() -> None:
    low = Scalar(**scalar(0.2, width=None))
    high = Scalar(**scalar(0.3, width=None))
    assert compared(low, high) is Verdict.SAE_LOWER


def test_a_value_that_was_not_measured_is_not_compared() -> None:
    assert compared(Scalar(**scalar(None)), Scalar(**scalar(0.3))) is None


def test_what_documents_do_to_sae_and_control_alike_does_not_hide_a_difference() -> (
    None
):
    """Their intervals overlap; the differences of all documents agree."""
    sae, control = Scalar(**scalar(0.5)), Scalar(**scalar(0.505))
    assert compared(sae, control) is Verdict.LEVEL
    own = document_sums({"fvu": 0.5})
    for higher, verdict_of_all in ((0.505, Verdict.SAE_LOWER), (0.5, Verdict.LEVEL)):
        its = parts.of_controls({"pca": document_sums({"fvu": higher})})
        beside = control._replace(value=higher)
        assert compared(sae, beside, own | its) is verdict_of_all


def test_the_frontier_leaves_out_what_another_sae_dominates() -> None:
    family = report(
        member("a", fvu=0.3, rate=100.0),
        member("b", fvu=0.2, rate=150.0),
        member("c", fvu=0.35, rate=160.0),
    )
    found = {s.name: (s.is_on_frontier, s.dominated_by) for s in subjects(family)}
    assert found == {
        "a": (True, None),
        "b": (True, None),
        "c": (False, "a"),
        "PCA": (False, None),
    }


def test_saes_are_held_against_those_of_the_same_target() -> None:
    found = {s.name: (s.is_on_frontier, s.note) for s in subjects(of_two_hooks())}
    random = (False, "control: decoder never trained")
    # On every axis the SAE of A is below both others, which are of B.
    assert found == {
        "of-a": (True, ""),
        "of-b": (True, ""),
        "a-to-b": (True, ""),
        "random-a": random,
        "random-b": random,
        "PCA, A": (False, "control: at the rate of of-a"),
        "PCA, B": (False, "control: at the rate of a-to-b"),
    }


def test_every_kind_of_sae_has_a_label() -> None:
    union, _ = get_args(SAEConfig)
    kinds = [get_args(sae.model_fields["kind"].annotation) for sae in get_args(union)]
    assert set(labels.KIND_LABELS) == {kind for (kind,) in kinds} | {"pretrained"}


def test_lines_join_saes_of_one_hook_alone() -> None:
    traces = scatters(of_two_hooks())[0].figure["data"]
    assert {trace["name"]: trace["customdata"] for trace in traces} == {
        "TopK, A": ["of-a"],
        "TopK, B": ["of-b"],
        "TopK, A -> B, skip": ["a-to-b"],
        "frozen-random, A": ["random-a"],
        "PCA, A": ["PCA at the rate of of-a"],
        "frozen-random, B": ["random-b"],
        "PCA, B": ["PCA at the rate of of-b", "PCA at the rate of a-to-b"],
    }


def test_controls_stand_last_and_pca_at_the_rate_of_the_lowest_fvu() -> None:
    family = report(
        member("frozen-random", fvu=0.1, is_control=True),
        member("a", fvu=0.3),
        member("b", fvu=0.2, controls={"pca": {"fvu": scalar(0.42)}}),
    )
    rows = subjects(family)
    assert [row.name for row in rows] == ["a", "b", "frozen-random", "PCA"]
    assert rows[-1].metrics["fvu"].value == 0.42


def test_figures_are_valid_plotly() -> None:
    family = report(member("a"), member("frozen-random", is_control=True))
    plots = [*scatters(family), *rate_curves(family), *curves(family)]
    assert len(plots) == 7
    for plot in plots:
        plotly.graph_objects.Figure(plot.figure)


def test_held_out_curves_are_drawn_where_something_was_measured() -> None:
    rows = [
        {"tokens": 2048, "fvu": 0.9, "eval_fvu": None},
        {"tokens": 4096, "fvu": 0.5, "eval_fvu": 0.6},
    ]
    drawn = {plot.div: plot.figure for plot in curves(report(member(curve=rows)))}
    (trace,) = drawn["plot-curve-eval_fvu"]["data"]
    assert (trace["x"], trace["y"]) == ([4096], [0.6])
    plain = [row | {"eval_fvu": None} for row in rows]
    drawn_plain = [plot.div for plot in curves(report(member(curve=plain)))]
    assert drawn_plain == ["plot-curve-fvu"]


def test_error_bars_reach_the_ends_of_the_interval() -> None:
    trace = scatters(report(member(rate=100.0)))[0].figure["data"][0]
    assert (trace["error_x"]["array"], trace["error_x"]["arrayminus"]) == ([1.0], [1.0])
