"""SAEs against each other and against their controls: frontier, marks and verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

from tasks.report.records import MemberReport, Report
from trilemma.metrics import parts
from trilemma.metrics.comparison import difference
from trilemma.metrics.scalar import Scalar

AXES = ("rate_bits", "fvu", "polysemanticity")
CONTROLLED = ("fvu", "polysemanticity")
"""Metrics in which an SAE should be lower than its controls."""


class Subject(NamedTuple):
    """One row of the family table: an SAE or a control."""

    name: str
    note: str
    """What it is, in a few words."""
    is_control: bool
    metrics: Mapping[str, Scalar]
    marks: Mapping[str, tuple[str, ...]]
    """What controls take from this SAE's numbers; see `marks`."""
    dominated_by: str | None
    """An SAE of the same target that is no worse on all three axes and better on one;
    None if there is none, or if an axis was not measured."""
    is_on_frontier: bool


class Verdict(Enum):
    """Which of an SAE and its control is lower, as far as their intervals tell."""

    SAE_LOWER = "SAE lower"
    CONTROL_LOWER = "control lower"
    LEVEL = "not told apart"


def subjects(report: Report) -> list[Subject]:
    """Return the rows of the family table: SAEs, then controls, then PCA.

    SAEs are held against those that reconstruct the same hook.
    """
    rivals: dict[str, list[MemberReport]] = {}
    for member in report.members:
        if not member.is_control:
            rivals.setdefault(member.target, []).append(member)
    rows = []
    for member in sorted(report.members, key=lambda member: member.is_control):
        scalars = member.scalars()
        dominator = (
            None if member.is_control else _dominator(scalars, rivals[member.target])
        )
        rows.append(
            Subject(
                name=member.name,
                note="control: decoder never trained" if member.is_control else "",
                is_control=member.is_control,
                metrics=scalars,
                marks={} if member.is_control else marks(member),
                dominated_by=dominator,
                is_on_frontier=not member.is_control
                and dominator is None
                and all(_value(scalars, axis) is not None for axis in AXES),
            )
        )
    for target, members in rivals.items():
        reference = best(members)
        if reference is not None and reference.controls.get("pca"):
            rows.append(
                Subject(
                    name=f"PCA, {target}" if len(rivals) > 1 else "PCA",
                    note=f"control: at the rate of {reference.name}",
                    is_control=True,
                    metrics=reference.control("pca"),
                    marks={},
                    dominated_by=None,
                    is_on_frontier=False,
                )
            )
    return rows


def best(members: Sequence[MemberReport]) -> MemberReport | None:
    """Return the SAE of one target with the lowest fvu, if any was measured."""
    measured = [
        (fvu, member)
        for member in members
        if (fvu := _value(member.scalars(), "fvu")) is not None
    ]
    return min(measured, key=lambda pair: pair[0])[1] if measured else None


def marks(member: MemberReport) -> dict[str, tuple[str, ...]]:
    """Return, by metric, which controls are as low as this SAE on equal terms."""
    return {metric: tuple(_marks(member, metric)) for metric in CONTROLLED}


def _marks(member: MemberReport, metric: str) -> Iterator[str]:
    pca, random = (
        verdict_of(member, control, metric) for control in ("pca", "frozen_random")
    )
    if pca is Verdict.CONTROL_LOWER:
        yield "PCA wins at equal rate"
    if pca is Verdict.LEVEL:
        yield "PCA as good at equal rate"
    if random in (Verdict.CONTROL_LOWER, Verdict.LEVEL):
        yield "frozen-random not worse at equal l0"


def verdict_of(member: MemberReport, control: str, metric: str) -> Verdict | None:
    """Return the verdict on an SAE and one of its controls; see `verdict`."""
    own, its = member.scalars().get(metric), member.control(control).get(metric)
    return verdict(own, its, control=control, metric=metric, kept=member.parts)


def verdict(
    sae: Scalar | None,
    control_scalar: Scalar | None,
    *,
    control: str,
    metric: str,
    kept: Mapping[str, np.ndarray],
) -> Verdict | None:
    """Return which is lower; None where one of the two was not measured.

    Where `kept` has the parts of both, they are level if their difference on the same
    documents is not distinguishable; else if both have intervals, and these overlap.
    """
    if sae is None or control_scalar is None:
        return None
    if sae.value is None or control_scalar.value is None:
        return None
    pair = (
        parts.estimate(kept, metric, value=sae.value),
        parts.estimate(kept, f"{control}.{metric}", value=control_scalar.value),
    )
    is_level = _overlap(sae, control_scalar)
    if pair[0] is not None and pair[1] is not None:
        found = difference([pair[0]], [pair[1]])
        if found.standard_error is not None:
            is_level = not found.is_distinguishable
    if sae.value == control_scalar.value or is_level:
        return Verdict.LEVEL
    is_lower = sae.value < control_scalar.value
    return Verdict.SAE_LOWER if is_lower else Verdict.CONTROL_LOWER


def _dominator(
    scalars: Mapping[str, Scalar], rivals: Sequence[MemberReport]
) -> str | None:
    own = [_value(scalars, axis) for axis in AXES]
    for member in rivals:
        rival = member.scalars()
        pairs = [
            (theirs, ours)
            for theirs, ours in zip(
                (_value(rival, axis) for axis in AXES), own, strict=True
            )
            if theirs is not None and ours is not None
        ]
        if (
            len(pairs) == len(AXES)
            and all(theirs <= ours for theirs, ours in pairs)
            and any(theirs < ours for theirs, ours in pairs)
        ):
            return member.name
    return None


def _overlap(a: Scalar, b: Scalar) -> bool:
    if a.ci_low is None or a.ci_high is None or b.ci_low is None or b.ci_high is None:
        return False
    return a.ci_low <= b.ci_high and b.ci_low <= a.ci_high


def _value(scalars: Mapping[str, Scalar], name: str) -> float | None:
    scalar = scalars.get(name)
    return None if scalar is None else scalar.value
