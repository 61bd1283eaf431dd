"""The page of one latent: its facts, its explanation, where it fires and where not."""

from typing import NamedTuple

from tasks.report import formatting, histogram, labels, tables
from tasks.report.histogram import Histogram
from tasks.report.records import Json, MemberReport
from tasks.report.tables import Cell
from trilemma.metrics.crosscoding import SHARE_PREFIX


class Token(NamedTuple):
    """One token of an example."""

    text: str
    strength: str
    """Activation over the latent's largest, from 0 to 1; empty where it is silent."""
    tooltip: str
    is_focus: bool
    """True for the token that the window was chosen for."""


class Example(NamedTuple):
    """A window of text around one place in the corpus."""

    place: str
    strongest: str
    tokens: tuple[Token, ...]


class Group(NamedTuple):
    """Examples of one kind."""

    title: str
    note: str
    examples: tuple[Example, ...]


class Score(NamedTuple):
    """One score of the explanation."""

    name: str
    meaning: str
    cell: Cell


class LatentPage(NamedTuple):
    """All that the template shows of one latent."""

    latent: int
    text: str
    status: str
    scores: tuple[Score, ...]
    facts: tuple[tuple[str, str], ...]
    histogram: Histogram | None
    silent: str
    """How many tokens it was silent on."""
    groups: tuple[Group, ...]
    is_explained: bool
    previous: int | None
    next: int | None


def pages(member: MemberReport) -> list[LatentPage]:
    """Return a page for each latent of an SAE that was sampled for explanation."""
    order = [explanation["latent"] for explanation in member.explanations]
    rows = {latent: row for row, latent in enumerate(member.column("latent"))}
    return [
        _page(
            member,
            explanation,
            row=rows.get(explanation["latent"]),
            previous=order[index - 1] if index > 0 else None,
            following=order[index + 1] if index + 1 < len(order) else None,
        )
        for index, explanation in enumerate(member.explanations)
    ]


def _page(
    member: MemberReport,
    explanation: Json,
    *,
    row: int | None,
    previous: int | None,
    following: int | None,
) -> LatentPage:
    scores = tables.scalars(explanation["scores"])
    counts = explanation["histogram"]
    return LatentPage(
        latent=explanation["latent"],
        text=explanation["text"],
        status=explanation["status"],
        scores=tuple(
            Score(name, labels.SCORES.get(name, ""), tables.cell(scalar))
            for name, scalar in scores.items()
        ),
        facts=_facts(member, explanation, row),
        histogram=histogram.of_counts(
            counts["edges"],
            counts["counts"],
            label="Tokens on which the latent fires, by activation",
            is_log=True,
        ),
        silent=formatting.count(counts["zero"]),
        groups=_groups(explanation),
        is_explained=explanation["status"] == labels.EXPLAINED,
        previous=previous,
        next=following,
    )


def _facts(
    member: MemberReport, explanation: Json, row: int | None
) -> tuple[tuple[str, str], ...]:
    facts = []
    if row is not None:
        for name, label in labels.LATENT_LABELS.items():
            if name in member.latents:
                facts.append((label, _shown(name, member.column(name)[row])))
        for hook in member.crosscoded:
            share = member.column(f"{SHARE_PREFIX}{hook}")[row]
            facts.append((f"share of decoder norm at {hook}", _shown("", share)))
    available = formatting.count(explanation["num_available"])
    facts.append(("documents it fires in", available))
    return tuple(facts)


def _shown(name: str, value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    if name in ("num_fired", "best_feature", "partner"):
        return formatting.count(value)
    return formatting.number(value)


def _groups(explanation: Json) -> tuple[Group, ...]:
    """Return the examples by group, shaded on one scale for the whole latent."""
    highs = [group["high"] or 0.0 for group in explanation["groups"]]
    largest = max(highs, default=0.0)
    groups = []
    for group in explanation["groups"]:
        examples = [e for e in explanation["examples"] if e["group"] == group["name"]]
        if examples:
            groups.append(
                Group(
                    labels.GROUP_LABELS.get(group["name"], group["name"]),
                    _note(group),
                    tuple(_example(example, largest) for example in examples),
                )
            )
    return tuple(groups)


def _note(group: Json) -> str:
    """Return what an example of the group was chosen from."""
    source = f"chosen from {group['num_rows']:,} tokens in {group['num_available']:,} "
    source += "documents"
    if not group["high"]:
        return f"silent throughout; {source}"
    low, high = formatting.number(group["low"]), formatting.number(group["high"])
    return f"activation {low} to {high}; {source}"


def _example(example: Json, largest: float) -> Example:
    """Return an example; its `position` is that of its first token in the sequence."""
    place = f"document {example['document']}"
    return Example(
        place=f"{place}, sequence {example['seq']}, {example['split']} split",
        strongest=formatting.number(max(example["acts"])),
        tokens=tuple(
            Token(
                text=formatting.visible(text),
                strength=f"{act / largest:.2f}" if act > 0 else "",
                tooltip=f"{formatting.number(act)} at {place}, "
                f"position {example['position'] + index}",
                is_focus=index == example["focus"],
            )
            for index, (text, act) in enumerate(
                zip(example["tokens"], example["acts"], strict=True)
            )
        ),
    )
