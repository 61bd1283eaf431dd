"""The `evaluation` stage: rate, distortion and polysemanticity on held-out rows."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from storage import durable, provenance, tables
from tasks import corpus, environment, harvest, hook_rows, lm, stage, training
from tasks.plan import Plan, Step
from trilemma import evaluation as library
from trilemma.config.saes import Group
from trilemma.config.section import Section
from trilemma.joint_hook import JointHook
from trilemma.metrics import splitting, tree_code
from trilemma.metrics.fidelity import SplicedLM
from trilemma.metrics.joint_lm import JointLM
from trilemma.metrics.scalar import Scalar
from trilemma.metrics.shared_clusters import SharedPair
from trilemma.sae import SAE
from trilemma.sequences import Sequences

METRICS = "metrics.json"
LATENTS = "latents.parquet"
PARTS = "documents.safetensors"
BASELINE_PREFIX = "baseline-"
SPLITS_PREFIX = "splits-"
SPLITS = "splits.json"
CHILDREN = "children.parquet"
_BASELINE = "baseline.safetensors"
_BYTES_PER_LATENT = 1 << 10
_MOST_SPLIT = 10


@task(
    name="evaluation",
    task_run_name="evaluation {name}",
    cache_policy=NO_CACHE,
    retries=0,
    persist_result=False,
)
def evaluation(plan: Plan, name: str, *, force: bool) -> State[stage.Outcome]:
    """Leave the metrics of one SAE, or what is of a hook and no SAE alone.

    That is `baseline-<hook>`, which all SAEs share, and `splits-<hook>`, which says
    what latents became in wider ones.
    """
    steps = [plan.step("evaluation", name)]
    body = _member_body
    if name.startswith(BASELINE_PREFIX):
        body = _baseline_body
    elif name.startswith(SPLITS_PREFIX):
        body = _splits_body
    return stage.perform(plan, steps, body, force=force)


def read_metrics(step: Step) -> dict[str, Any]:
    """Return an SAE's metrics and controls, as `metrics.json` holds them."""
    step.fetch()
    value = json.loads((step.folder / METRICS).read_text())
    assert isinstance(value, dict)
    return value


def read_latents(step: Step) -> dict[str, list[Any]]:
    """Return the columns of an SAE's latents."""
    return tables.read(step.folder / LATENTS)


def read_parts(step: Step) -> dict[str, np.ndarray]:
    """Return the sums over documents by which an SAE is compared with others."""
    return load_arrays(step.folder / PARTS)


def read_splits(step: Step) -> list[dict[str, Any]]:
    """Return what the latents of SAEs became in wider ones, couple by couple."""
    step.fetch()
    found = json.loads((step.folder / SPLITS).read_text())
    assert isinstance(found, list)
    return found


def sequences(
    plan: Plan, hook: str, limit: int | None = None
) -> Callable[[], Iterator[Sequences]]:
    """Return a function that starts over the held-out sequences, in stored order."""
    rows = hook_rows.of(plan, "eval", hook)
    batch = plan.run.evaluation.batch_seqs

    def batches() -> Iterator[Sequences]:
        for part in rows.sequences(batch, limit=limit):
            yield Sequences(*part)

    return batches


def _baseline_body(work: stage.Work) -> None:
    (step,) = work.pending
    plan = work.plan
    hook = step.name.removeprefix(BASELINE_PREFIX)
    held_out, trained = (hook_rows.of(plan, name, hook) for name in ("eval", "train"))
    _check_same(step, held_out.origin, trained.origin)
    baseline = library.baseline(
        plan.run.evaluation,
        eval_batches=sequences(plan, hook),
        train_rows=trained.first(plan.run.evaluation.rate_tokens),
        mean=trained.mean,
        lm=_lm(plan, trained.joint),
        hook=hook,
        token_text=_token_text(plan),
        document_labels=corpus.read_labels(plan),
    )
    tensors = baseline.to_tensors()
    save_file(tensors, work.folder(step) / _BASELINE)
    work.commit(step)


def _member_body(work: stage.Work) -> None:
    (step,) = work.pending
    plan = work.plan
    member = plan.member(step.name)
    device = environment.device(plan.run.compute)
    sae = training.load_sae_of_rows(plan, step.parents["training"], device)
    work.check_room(sae.d_sae * _BYTES_PER_LATENT)
    if "trilemma_origin" in sae.metadata:
        held_out = hook_rows.of(plan, "eval", member.hook)
        _check_same(step, sae.metadata["trilemma_origin"], held_out.origin)
    joint = hook_rows.joint(plan, member.target_hook)
    baseline, token_text = _baseline(step), _token_text(plan)
    result = library.evaluate(
        sae,
        plan.run.evaluation,
        baseline=baseline,
        eval_batches=sequences(plan, member.target_hook),
        lm=_lm(plan, joint),
        hook=member.target_hook,
        control=training.load_sae_of_rows(
            plan, step.parents["training/control"], device
        ),
        features=harvest.features(plan),
        toy=plan.run.toy,
        token_text=token_text,
        parents=_parents(sae, member.config),
        read_batches=None
        if member.target_hook == member.hook
        else sequences(plan, member.hook),
        widths=joint and dict(zip(joint.hooks, joint.widths, strict=True)),
    )
    target = work.folder(step)
    durable.write_json(
        target / METRICS,
        {
            "metrics": {k: v._asdict() for k, v in result.metrics.items()},
            "controls": {
                control: {k: v._asdict() for k, v in scalars.items()}
                for control, scalars in result.controls.items()
            },
            "details": result.details,
            "rate_curve": {
                k: v.tolist() for k, v in result.rate_curve._asdict().items()
            },
            "planted": [seen._asdict() for seen in result.planted],
            "shared": _shared(result.shared, baseline, token_text),
        },
    )
    tables.write(target / LATENTS, result.latents)
    save_arrays(result.parts, target / PARTS)
    headline = ("rate_bits", "fvu", "l0", "polysemanticity")
    get_run_logger().info(
        "%s: %s",
        step.title,
        ", ".join(f"{name} {_shown(result.metrics[name])}" for name in headline),
    )
    if "cause_lm_sequences" in result.details:
        get_run_logger().info(
            "%s: the LM read %d sequences more to ablate and steer by latents",
            step.title,
            result.details["cause_lm_sequences"],
        )
    work.commit(step)


def _shared(
    pairs: Sequence[SharedPair],
    baseline: library.Baseline,
    token_text: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Return pairs of clusters with the text of the tokens that tell most of each."""
    if baseline.cluster_tokens is None or token_text is None:
        return []
    words = [
        [token_text[token] for token in tokens if token >= 0]
        for tokens in baseline.cluster_tokens.tolist()
    ]
    return [
        pair._asdict()
        | {"first_tokens": words[pair.first], "second_tokens": words[pair.second]}
        for pair in pairs
    ]


def _parents(sae: SAE, config: Section) -> Int64[np.ndarray, " node"] | None:
    """Return which latent is on only where which is, for an SAE of such a kind."""
    if sae.parents is not None:
        return sae.parents.cpu().numpy()
    if isinstance(config, Group):
        return tree_code.group_parents(sae.d_sae, group_size=config.group_size)
    return None


def _splits_body(work: stage.Work) -> None:
    (step,) = work.pending
    plan, hook = work.plan, step.name.removeprefix(SPLITS_PREFIX)
    device = environment.device(plan.run.compute)
    trained = {
        label.removeprefix("training/"): parent
        for label, parent in step.parents.items()
        if label.startswith("training/")
    }
    widths = {
        name: training.load_sae(each, "cpu").d_sae for name, each in trained.items()
    }
    couples = splitting.couples(plan.run.family(), widths)
    work.check_room(sum(widths[wide] for _, wide in couples) * _BYTES_PER_LATENT)
    baseline = _baseline(step)
    limit = -(-plan.run.evaluation.rate_tokens // harvest.open_store(plan, "eval").ctx)
    records: list[dict[str, Any]] = []
    columns: dict[str, list[Any]] = {}
    for narrow, wide in couples:
        found = splitting.splits(
            training.load_sae_of_rows(plan, trained[narrow], device),
            training.load_sae_of_rows(plan, trained[wide], device),
            baseline.rows(sequences(plan, hook, limit=limit)()),
        )
        scalars = splitting.scalars(found)
        records.append(
            {
                "narrow": narrow,
                "wide": wide,
                "metrics": {k: v._asdict() for k, v in scalars.items()},
                "most_split": [
                    {"latent": latent, "children": found.children(latent).tolist()}
                    for latent in found.most_split(_MOST_SPLIT)
                ],
            }
        )
        for key, values in found.columns().items():
            columns.setdefault(key, []).extend(values.tolist())
        columns.setdefault("narrow", []).extend([narrow] * widths[wide])
        columns.setdefault("wide", []).extend([wide] * widths[wide])
        get_run_logger().info(
            "%s: %s latents of %s for one of %s",
            step.title,
            _shown(scalars["children"]),
            wide,
            narrow,
        )
    durable.write_json(work.folder(step) / SPLITS, records)
    tables.write(work.folder(step) / CHILDREN, columns)
    work.commit(step)


def _baseline(step: Step) -> library.Baseline:
    return library.Baseline.from_tensors(
        load_file(step.parents["evaluation/baseline"].folder / _BASELINE)
    )


def _check_same(step: Step, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    for warning in provenance.check_same(step.title, mine, theirs):
        get_run_logger().warning(warning)


def _shown(scalar: Scalar) -> str:
    return "undefined" if scalar.value is None else f"{scalar.value:.3g}"


def _lm(plan: Plan, joint: JointHook | None) -> SplicedLM | None:
    """Return the LM that reads the rows, at the dtype they were harvested with."""
    if plan.run.harvest is None:
        return None
    found = lm.load(plan, dtype=plan.run.harvest.lm_dtype)
    return found if joint is None else JointLM(found, joint)


def _token_text(plan: Plan) -> list[str] | None:
    return None if plan.run.toy is not None else lm.token_text(plan)
