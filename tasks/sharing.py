"""The `sharing` stage: tables, report and SAEs to W&B, and what it kept of them."""

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from storage import durable
from tasks import evaluation, stage, tracking, training
from tasks.plan import Plan, Step

RECORD = "shared.json"
_REPORT_BYTES = 64 << 20
_LIMITS = ("value", "ci_low", "ci_high")


@task(name="sharing", cache_policy=NO_CACHE, retries=0, persist_result=False)
def sharing(plan: Plan, *, force: bool) -> State[stage.Outcome]:
    """Leave a record of what was logged, and where; nothing if there is no tracker."""
    return stage.perform(plan, plan.of("sharing"), _body, force=force)


def _body(work: stage.Work) -> None:
    (step,) = work.pending
    plan = work.plan
    work.check_room(_REPORT_BYTES)
    record: dict[str, Any] = {"tracker": plan.run.sharing.tracker}
    if plan.run.sharing.tracker == "wandb":
        record |= _share(plan, step)
        get_run_logger().info(
            "sharing: W&B run %s (%s) holds %d artifacts and %d rows: %s",
            record["run_id"],
            record["mode"],
            len(record["artifacts"]),
            record["rows"],
            record["where"],
        )
    durable.write_json(work.folder(step) / RECORD, record)
    work.commit(step)


def _share(plan: Plan, step: Step) -> dict[str, Any]:
    reporting = step.parents["reporting"]
    members = {
        member.name: evaluation.read_metrics(
            reporting.parents[f"evaluation/{member.name}"]
        )
        for member in plan.run.family()
    }
    metrics = {name: measured["metrics"] for name, measured in members.items()}
    session = tracking.start(
        plan,
        run_id=step.key,
        name=plan.run.name,
        job="sharing",
        config=plan.run.model_dump(mode="json"),
    )
    try:
        artifacts_logged = [
            tracking.log_folder(
                session,
                f"report-{reporting.key}",
                "report",
                reporting.folder,
                _lineage(reporting),
            )
        ]
        for name in members:
            trained = step.parents[f"training/{name}"]
            artifacts_logged.append(
                tracking.log_folder(
                    session,
                    f"sae-{trained.key}",
                    "sae",
                    trained.folder / training.SAE_FOLDER,
                    {"name": name} | _lineage(trained),
                )
            )
        tracking.log_table(session, "family", _rows(metrics))
        tracking.log_summary(session, _flat(metrics))
    finally:
        session.finish()
    return tracking.checked(session, plan.run.sharing.mode, artifacts_logged)


def _lineage(step: Step) -> dict[str, Any]:
    """Return key, digest and parents, so that W&B shows what came from what."""
    manifest = step.manifest()
    assert manifest is not None
    return {
        "key": step.key,
        "digest": manifest.digest,
        "parents": {k: v.model_dump() for k, v in manifest.parents.items()},
    }


def _rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each SAE, each metric with its interval."""
    names = sorted({name for found in metrics.values() for name in found})
    rows = []
    for sae, found in metrics.items():
        row: dict[str, Any] = {"sae": sae}
        for name in names:
            for limit in _LIMITS:
                suffix = "" if limit == "value" else f"_{limit}"
                row[f"{name}{suffix}"] = found.get(name, {}).get(limit)
        rows.append(row)
    return rows


def _flat(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {
        f"eval/{sae}/{name}{'' if limit == 'value' else '_' + limit}": scalar[limit]
        for sae, found in metrics.items()
        for name, scalar in found.items()
        for limit in _LIMITS
        if scalar[limit] is not None
    }
