"""SAEs of a family against each other, on the same documents: what is told apart.

Numbers come from `trilemma.metrics`; this file says what is set beside what.
"""

import json
import re
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from tasks.report.comparison import AXES
from tasks.report.records import MemberReport, Report
from trilemma.metrics import comparison, matched_rate, mdl, pareto, parts, rate_curve
from trilemma.metrics.comparison import Difference, Spread
from trilemma.metrics.intervals import SHARE
from trilemma.metrics.mdl import Choice
from trilemma.metrics.parts import Estimate
from trilemma.metrics.rate_curve import Crossing, RateCurve

COMPARED = (*AXES, "delta_ce")
"""Metrics whose paired differences are shown."""
NUM_RESAMPLES = 1000
_SEED = 0
_LEAST_PROBABILITY = 0.05
"""Of dominance, from which on two SAEs that are no neighbours are set side by side."""
_BEYOND_WORST = 1.1
"""The hypervolume's reference lies so far beyond the family's worst, so that the SAE
that is worst on one axis counts as well."""


class Pair(NamedTuple):
    """Two SAEs side by side; over seeds, where there are any, their means."""

    first: str
    second: str
    first_dominates: float
    """Probability that it is no worse on all three axes and better on one."""
    second_dominates: float
    differences: dict[str, Difference]
    """The first less the second, by metric."""


class Seeds(NamedTuple):
    """One configuration over its seeds."""

    name: str
    num_seeds: int
    spreads: dict[str, Spread]


class Volume(NamedTuple):
    """How much of the box below the reference some SAEs dominate."""

    name: str
    num_saes: int
    value: float
    ci_low: float | None
    """Of Student's t, with the deviation of resamples; None for one block."""
    ci_high: float | None


class AtOneRate(NamedTuple):
    """Two families, read off at the same rate between their members."""

    first: str
    second: str
    rate_bits: float
    values: dict[str, tuple[float, float]]
    differences: dict[str, Difference]


class Meeting(NamedTuple):
    """Where the rate-distortion curves of two SAEs cross."""

    above: str
    """The one with the lower fvu at higher rates."""
    below: str
    at: Crossing


class Statistics(NamedTuple):
    """All that is said of the SAEs of one hook together."""

    hook: str
    pairs: list[Pair]
    seeds: list[Seeds]
    volumes: list[Volume]
    reference: dict[str, float]
    """The hypervolume's reference point; empty where there is none."""
    matched: list[AtOneRate]
    choices: list[Choice]
    meetings: list[Meeting]


class _Group(NamedTuple):
    """The SAEs of one configuration, which differ in their seed alone."""

    name: str
    family: str
    members: list[dict[str, Estimate]]

    def mean(self, metric: str) -> float:
        """Return the mean over seeds."""
        return float(np.mean([member[metric].value for member in self.members]))


def of_report(report: Report) -> list[Statistics]:
    """Return the statistics of each hook's SAEs, controls left out."""
    hooks: dict[str, list[MemberReport]] = {}
    for member in report.members:
        if not member.is_control:
            # Transcoders stand beside the SAEs of the hook that they reconstruct.
            hooks.setdefault(member.target, []).append(member)
    return [_of_hook(hook, members) for hook, members in hooks.items()]


def curve(member: MemberReport) -> RateCurve:
    """Return an SAE's rate-distortion curve."""
    return RateCurve(*(np.array(member.rate_curve[key]) for key in RateCurve._fields))


def _of_hook(hook: str, members: Sequence[MemberReport]) -> Statistics:
    curves = {member.name: curve(member) for member in members}
    groups = _groups(members)
    values = np.array([[group.mean(axis) for axis in AXES] for group in groups])
    worst = _BEYOND_WORST * values.max(0) if groups else np.zeros(0)
    draws = np.zeros((NUM_RESAMPLES, 0, len(AXES)))
    if groups:
        draws = pareto.resample(
            [[[seed[axis] for axis in AXES] for seed in g.members] for g in groups],
            num_resamples=NUM_RESAMPLES,
            seed=_SEED,
        )
    return Statistics(
        hook=hook,
        pairs=_pairs(groups, values, draws),
        seeds=_seeds(groups),
        volumes=_volumes(groups, values, draws, worst),
        reference=dict(zip(AXES, worst.tolist(), strict=False)),
        matched=_matched(groups, values, draws),
        choices=_choices(curves),
        meetings=_meetings(curves),
    )


def _groups(members: Sequence[MemberReport]) -> list[_Group]:
    """Return the configurations whose SAEs were measured on all axes, by rate."""
    found: dict[str, _Group] = {}
    for member in members:
        scalars = member.scalars()
        known = {
            name: estimate
            for name in COMPARED
            if name in scalars
            and (
                estimate := parts.estimate(
                    member.parts, name, value=scalars[name].value
                )
            )
        }
        if not set(AXES) <= set(known):
            continue
        settings = {k: v for k, v in member.config.items() if k != "seed"}
        key = json.dumps(settings, sort_keys=True)
        family = f"{member.kind}, {member.num_latents:,} latents"
        if member.is_transcoder:
            family += f", {member.path}"
        if member.kind == "pretrained":  # of published SAEs each is its own
            key = family = member.name
        name = configuration(member.name)
        found.setdefault(key, _Group(name, family, [])).members.append(known)
    return sorted(found.values(), key=lambda group: group.mean(AXES[0]))


def _pairs(
    groups: Sequence[_Group],
    values: Float64[np.ndarray, "group axis"],
    draws: Float64[np.ndarray, "resample group axis"],
) -> list[Pair]:
    """Return neighbours in rate, and those of whom one may dominate the other."""
    probability = pareto.dominance(draws).probability if groups else values
    chosen = set(pairwise(range(len(groups))))
    chosen |= {
        (i, j)
        for i, j in combinations(range(len(groups)), 2)
        if max(probability[i, j], probability[j, i]) >= _LEAST_PROBABILITY
    }
    return [
        Pair(
            groups[i].name,
            groups[j].name,
            float(probability[i, j]),
            float(probability[j, i]),
            {
                metric: comparison.difference(
                    [member[metric] for member in groups[i].members],
                    [member[metric] for member in groups[j].members],
                )
                for metric in COMPARED
                if all(metric in m for g in (groups[i], groups[j]) for m in g.members)
            },
        )
        for i, j in sorted(chosen)
    ]


def _seeds(groups: Sequence[_Group]) -> list[Seeds]:
    return [
        Seeds(
            group.name,
            len(group.members),
            {
                metric: comparison.spread([m[metric].value for m in group.members])
                for metric in COMPARED
                if all(metric in member for member in group.members)
            },
        )
        for group in groups
        if len(group.members) > 1
    ]


def _families(groups: Sequence[_Group]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        found.setdefault(group.family, []).append(index)
    return found


def _volumes(
    groups: Sequence[_Group],
    values: Float64[np.ndarray, "group axis"],
    draws: Float64[np.ndarray, "resample group axis"],
    worst: Float64[np.ndarray, " axis"],
) -> list[Volume]:
    families = _families(groups)
    if len(families) > 1:
        families = {"all SAEs": list(range(len(groups)))} | families
    found = []
    for name, chosen in families.items():
        (value,) = pareto.hypervolume(values[None, chosen], reference=worst)
        moved = pareto.hypervolume(draws[:, chosen], reference=worst)
        _, low, high, _ = comparison.from_resamples(
            float(value), moved, num_blocks=_num_blocks(groups), bounds=SHARE
        )
        found.append(Volume(name, len(chosen), float(value), low, high))
    return found


def _num_blocks(groups: Sequence[_Group]) -> int:
    """Return how many blocks the documents make: the same for every SAE of a hook."""
    return len(groups[0].members[0][AXES[0]].influence)


def _matched(
    groups: Sequence[_Group],
    values: Float64[np.ndarray, "group axis"],
    draws: Float64[np.ndarray, "resample group axis"],
) -> list[AtOneRate]:
    found = []
    for (first, ours), (second, theirs) in combinations(_families(groups).items(), 2):
        rate = matched_rate.common_rate(values[ours, 0], values[theirs, 0])
        if rate is None:
            continue
        pair = matched_rate.compare(
            draws[:, ours],
            draws[:, theirs],
            values=(values[ours], values[theirs]),
            rate_bits=rate,
            num_blocks=_num_blocks(groups),
        )
        found.append(
            AtOneRate(
                first,
                second,
                rate,
                {
                    axis: (float(one), float(other))
                    for axis, one, other in zip(
                        AXES[1:], pair.first, pair.second, strict=True
                    )
                },
                dict(zip(AXES[1:], pair.differences, strict=True)),
            )
        )
    return found


def _choices(curves: dict[str, RateCurve]) -> list[Choice]:
    """Return the choices by configuration: which seed is ahead means nothing."""
    found: list[Choice] = []
    for choice in mdl.choices(curves):
        name = configuration(choice.name)
        if found and found[-1].name == name:
            found[-1] = found[-1]._replace(high=choice.high)
        else:
            found.append(choice._replace(name=name))
    return found


def _meetings(curves: dict[str, RateCurve]) -> list[Meeting]:
    found = []
    for (first, ours), (second, theirs) in combinations(curves.items(), 2):
        is_drawn = min(len(ours.fvu), len(theirs.fvu)) > 0
        if is_drawn and configuration(first) != configuration(second):
            for at in rate_curve.crossings(ours, theirs):
                above, below = (
                    (first, second) if at.first_is_lower_above else (second, first)
                )
                found.append(Meeting(above, below, at))
    return sorted(found, key=lambda meeting: meeting.at.rate_bits)


def configuration(name: str) -> str:
    """Return the name of an SAE without its seed."""
    return re.sub(r"-seed\d+", "", name)
