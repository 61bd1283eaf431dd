"""The `reporting` stage: everything about the family on pages that open offline."""

import json
from typing import Any

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from tasks import environment, evaluation, explanation, lm, report, stage, training
from tasks.corpus import INFO
from tasks.harvest import open_store
from tasks.plan import Plan, Step
from trilemma.config import Member
from trilemma.corpus import label_column
from trilemma.metrics import stability

PAGE = "index.html"
_REPORT_BYTES = 64 << 20
_FEW_DOCUMENTS = 20  # fewer than the blocks of the jackknife
_EMBEDDED_CAUTION = (
    "The language model was trained on the spot, on a small text, in about two "
    "minutes. These numbers show that the machinery works on real text; they say "
    "nothing about language models that people use."
)
_TOY_CAUTION = (
    "The activations come from a generator with known features. Numbers are exact "
    "about the toy and say nothing about language models."
)


@task(name="reporting", cache_policy=NO_CACHE, retries=0, persist_result=False)
def reporting(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave a folder whose `index.html` tells everything about the family."""
    return stage.perform(plan, plan.of("reporting"), _body, force=force)


def _body(work: stage.Work) -> None:
    (step,) = work.pending
    plan = work.plan
    work.check_room(_REPORT_BYTES)
    folder = work.folder(step)
    report.write(
        report.Report(
            name=plan.run.name,
            title=plan.run.reporting.title or plan.run.name,
            facts=tuple(_facts(plan)),
            caution=_caution(plan),
            members=tuple(_member(plan, step, each) for each in plan.run.family()),
            has_features=plan.run.toy is not None,
            splits=tuple(
                couple
                for label, parent in step.parents.items()
                if label.startswith(f"evaluation/{evaluation.SPLITS_PREFIX}")
                for couple in evaluation.read_splits(parent)
            ),
        ),
        folder,
    )
    few = _few_documents(plan)
    if few is not None:
        get_run_logger().warning("reporting: %s", few)
    get_run_logger().info("reporting: open %s", step.folder / PAGE)
    work.commit(step)


def _member(plan: Plan, step: Step, member: Member) -> report.MemberReport:
    trained = step.parents[f"training/{member.name}"]
    evaluated = step.parents[f"evaluation/{member.name}"]
    measured = evaluation.read_metrics(evaluated)
    found = _stability(plan, step, member)
    stable = {name: scalar._asdict() for name, scalar in found.metrics.items()}
    latents = evaluation.read_latents(evaluated) | {"stability": found.best.tolist()}
    return report.MemberReport(
        name=member.name,
        slug=member.name.lower(),
        is_control=member.is_control,
        config=trained.section["sae"],
        metrics=measured["metrics"] | stable,
        controls=measured["controls"],
        planted=measured["planted"],
        shared=measured["shared"],
        latents=latents,
        explanations=explanation.read(step.parents[f"explanation/{member.name}"]),
        rate_curve=measured["rate_curve"],
        parts=evaluation.read_parts(evaluated),
        curve=json.loads((trained.folder / training.CURVE).read_text()),
    )


def _stability(plan: Plan, step: Step, member: Member) -> stability.Stability:
    """Return how well the family's other seeds of an SAE find its directions.

    Only here is the family in sight: an evaluation sees one SAE.
    """
    others = plan.run.other_seeds(member)
    ours, *theirs = (_dictionary(plan, step, each.name) for each in (member, *others))
    return stability.stability(ours, theirs, seed=plan.run.evaluation.seed)


def _dictionary(plan: Plan, step: Step, name: str) -> stability.Dictionary:
    device = environment.device(plan.run.compute)
    sae = training.load_sae_of_rows(plan, step.parents[f"training/{name}"], device)
    states = evaluation.read_latents(step.parents[f"evaluation/{name}"])["state"]
    return stability.Dictionary(sae.W_dec, np.array(states) == "alive")


def _caution(plan: Plan) -> str | None:
    if plan.run.toy is not None:
        return _TOY_CAUTION
    parts = []
    if plan.run.lm is not None and plan.run.lm.kind == "embedded":
        parts.append(_EMBEDDED_CAUTION)
    few = _few_documents(plan)
    if few is not None:
        parts.append(few)
    return " ".join(parts) or None


def _few_documents(plan: Plan) -> str | None:
    if plan.run.toy is not None:
        return None
    documents = _corpus_info(plan)["eval"]["num_documents"]
    if documents >= _FEW_DOCUMENTS:
        return None
    return (
        f"Few documents are held out ({documents}), and intervals are over "
        "documents, so these tell little; raise corpus.eval_fraction."
    )


def _facts(plan: Plan) -> list[tuple[str, str]]:
    """Return what the report tells of its sources; nothing varies by the clock."""
    facts = []
    if plan.run.toy is None:
        facts.append(("language model", _lm_fact(plan)))
        facts.append(("corpus", _corpus_fact(plan)))
    else:
        facts.append(("toy", plan.run.toy.summary))
    for hook in plan.run.hooks:
        for split in ("train", "eval"):
            store = open_store(plan, split)
            found = store.statistics(hook)
            facts.append(
                (
                    f"{hook}, {split}",
                    f"{found['count']:,} of {store.num_tokens:,} rows count, d_in "
                    f"{store.d_in(hook)}, {store.dtypes[hook]}, mean squared norm "
                    f"{found['mean_squared_norm']:.4g}, "
                    f"largest |x| {found['max_abs']:.4g}",
                )
            )
    return facts


def _lm_fact(plan: Plan) -> str:
    step = plan.step("lm")
    card: dict[str, Any] = json.loads((step.folder / lm.CARD).read_text())
    config = plan.run.lm
    assert config is not None
    if config.kind == "embedded":
        return (
            f"embedded: {config.num_layers} layers, d_model {config.d_model}, "
            f"validation loss {card['val_loss']:.3f} nats/token "
            f"({card['bits_per_byte']:.3f} bits/byte), unigram entropy "
            f"{card['unigram_entropy']:.3f} nats/token"
        )
    if config.kind == "hub":
        return f"{config.id} at {plan.pinned['lm']}"
    return f"local folder of {len(card['files'])} files"


def _corpus_fact(plan: Plan) -> str:
    info = _corpus_info(plan)
    config = plan.run.corpus
    assert config is not None
    ctx = open_store(plan, "train").ctx
    counts = ", ".join(
        f"{info[split]['num_seqs']:,} {split} rows of {ctx} tokens from "
        f"{info[split]['num_documents']:,} documents"
        for split in ("train", "eval")
    )
    if "labels" in info:
        column = label_column(config)
        counts += f"; {len(info['labels']):,} labels in column {column!r}"
    return f"{config.kind}: {counts}"


def _corpus_info(plan: Plan) -> dict[str, Any]:
    info: dict[str, Any] = json.loads((plan.step("corpus").folder / INFO).read_text())
    return info
