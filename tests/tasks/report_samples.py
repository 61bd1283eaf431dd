"""Sample reports, with hostile text in every place that a corpus can reach."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.report import MemberReport, Report, write
from trilemma.metrics import parts
from trilemma.metrics.scalar import Scalar

HOSTILE = "<script>alert('x')</script>&\"{{ 7 * 7 }}"


def scalar(
    value: float | None, *, width: float | None = 0.01, unit: str = "1"
) -> dict[str, Any]:
    return Scalar(
        value=value,
        ci_low=None if value is None or width is None else value - width,
        ci_high=None if value is None or width is None else value + width,
        n=1000,
        unit=unit,
        method="bootstrap over documents",
        metric_version=1,
        seed=0,
        reason="the ablation costs nothing" if value is None else None,
    )._asdict()


def explanation(latent: int, *, status: str = "explained") -> dict[str, Any]:
    is_explained = status == "explained"
    return {
        "latent": latent,
        "density": 0.01,
        "num_fired": 40,
        "num_available": 12,
        "status": status,
        "text": f"token {HOSTILE}" if is_explained else "too few examples to explain",
        "terms": [],
        "scores": {"predicate_f1": scalar(0.7), "shuffled_f1": scalar(0.1)}
        if is_explained
        else {},
        "groups": [
            {
                "name": "top",
                "low": 0.5,
                "high": 2.0,
                "num_rows": 40,
                "num_available": 9,
            },
            {"name": "silent", "low": 0, "high": 0, "num_rows": 90, "num_available": 8},
        ],
        "examples": [
            {
                "group": "top",
                "document": 31,
                "seq": 4,
                "position": 10,
                "focus": 1,
                "tokens": ["def", HOSTILE, " x\n"],
                "acts": [0.0, 2.0, 0.5],
                "split": "explain",
            },
            {
                "group": "silent",
                "document": 32,
                "seq": 5,
                "position": 0,
                "focus": 0,
                "tokens": ["a", "b"],
                "acts": [0.0, 0.0],
                "split": "score",
            },
        ],
        "histogram": {"edges": [0.1, 1.0, 10.0], "counts": [30, 10], "zero": 960},
        "judgements": [[32, 1, 2, 3, 100]],
    }


def document_sums(values: dict[str, float], *, spread: float = 0.01) -> parts.Arrays:
    """Return sums over forty documents around values, the same noise for each SAE."""
    noise = np.random.default_rng(0).normal(size=(len(values), 40))
    noise -= noise.mean(1, keepdims=True)
    found: parts.Arrays = {}
    for (name, value), row in zip(values.items(), noise, strict=True):
        found |= parts.of_ratio(name, value * (1 + spread * row), np.ones(40))
    return found


def member(
    name: str = "topk-k16", *, fvu: float = 0.3, rate: float = 100.0, **changes: Any
) -> MemberReport:
    values: dict[str, Any] = {
        "name": name,
        "slug": name,
        "is_control": False,
        "config": {"kind": "topk", "k": name, "lr": None},
        "metrics": {
            "rate_bits": scalar(rate, width=1.0, unit="bits/token"),
            "fvu": scalar(fvu),
            "polysemanticity": scalar(0.5),
            "ce_recovered_mean": scalar(None),
        },
        "controls": {
            "pca": {"fvu": scalar(0.5), "rate_bits": scalar(rate, unit="bits/token")},
            "frozen_random": {"fvu": scalar(0.7)},
        },
        "latents": {
            "latent": [0, 1, 2],
            "density": [0.01, 0.2, 0.0],
            "num_fired": [10, 200, 0],
            "state": ["alive", "alive", "dead"],
            "max_act": [2.0, 3.0, 0.0],
            "n_eff": [2.0, 3.0, math.nan],
            "n_eff_null": [4.0, 4.0, None],
        },
        "explanations": [explanation(0), explanation(2, status="too_few_examples")],
        "rate_curve": {
            "bin_width": [0.1, 0.2, 0.4],
            "rate_bits": [rate, 0.8 * rate, 0.6 * rate],
            "fvu": [fvu, 1.1 * fvu, 1.6 * fvu],
        },
        "parts": document_sums({"rate_bits": rate, "fvu": fvu, "polysemanticity": 0.5}),
        "curve": [
            {"step": 1, "tokens": 2048, "fvu": 0.9, "l0": 16.0, "dead_fraction": 0.0},
            {"step": 2, "tokens": 4096, "fvu": 0.5, "l0": 16.0, "dead_fraction": 0.1},
        ],
    }
    return MemberReport(**(values | changes))


def report(*members: MemberReport, **changes: Any) -> Report:
    values: dict[str, Any] = {
        "name": "run",
        "title": "A family",
        "facts": (("LM", "small"), ("Corpus", HOSTILE)),
        "caution": "not science",
        "members": members or (member(), member("topk-k32", fvu=0.2, rate=150.0)),
        "has_features": False,
    }
    return Report(**(values | changes))


def of_two_hooks() -> Report:
    """Return an SAE of A, one of B, and a transcoder from A to B, with the controls."""
    settings = {"kind": "topk", "k": 16, "seed": 0}
    a, b = {"hook": "A"}, {"hook": "B"}
    both = {"hook": "A", "target_hook": "B", "skip": True}
    return report(
        member("of-a", fvu=0.1, rate=50.0, config=settings | a),
        member("of-b", fvu=0.3, rate=100.0, config=settings | b),
        member("a-to-b", fvu=0.2, rate=150.0, config=settings | both),
        member("random-a", fvu=0.7, is_control=True, config=settings | a),
        member("random-b", fvu=0.7, is_control=True, config=settings | b),
    )


def crosscoder() -> MemberReport:
    """Return a crosscoder of A and B, whose live latents lie at A and between."""
    found = member(config={"kind": "topk", "k": 16, "hook": ["A", "B"]})
    shares = {
        "decoder_share_A": [0.98, 0.5, 0.1],
        "decoder_share_B": [0.02, 0.5, 0.9],
    }
    return replace(
        found,
        metrics={**found.metrics, "fvu_at_A": scalar(0.2), "fvu_at_B": scalar(0.4)},
        latents={**found.latents, **shares},
    )


def written(value: Report, folder: Path) -> dict[str, bytes]:
    write(value, folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def index(value: Report, folder: Path) -> str:
    """Return the index page without Plotly's own five megabytes."""
    page = written(value, folder)["index.html"].decode()
    return re.sub(r"<script>.{1000000,}?</script>", "", page, flags=re.DOTALL)
