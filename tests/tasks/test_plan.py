"""What the keys of a run's steps are made of."""

import hashlib
from pathlib import Path

from storage.home import Home
from tasks import plan as planning
from tasks.plan import Plan
from trilemma import config


def made(home: Path, *words: str, profile: str = "toy") -> Plan:
    return planning.make(config.load(f"configs/{profile}.yaml", words), Home(home))


def test_the_table_of_the_harness_is_part_of_the_key_of_a_report(
    tmp_path: Path,
) -> None:
    table = Path("tasks/report/proxies.json").read_bytes()
    section = made(tmp_path).step("reporting").section
    assert section["proxies"] == hashlib.sha256(table).hexdigest()


def test_the_order_of_saes_is_part_of_the_key_of_what_compares_their_widths(
    tmp_path: Path,
) -> None:
    saes = ["{kind: topk, d_sae: 8, k: 2}", "{kind: batchtopk, d_sae: 8, k: 2}"]
    keys = [
        made(tmp_path, f"saes=[{', '.join(order)}, {{kind: topk, d_sae: 16, k: 2}}]")
        .step("evaluation", "splits-toy")
        .key
        for order in (saes, saes[::-1])
    ]
    assert keys[0] != keys[1]


def labelled(home: Path, *settings: str) -> Plan:
    """Return the plan of a run over a file of JSON lines, with these settings of it."""
    path = home / "texts.jsonl"
    path.write_text('{"text": "some text", "lang": "en"}')
    source = ", ".join(["kind: jsonl", f"paths: [{path}]", *settings])
    return made(home, f"corpus={{{source}}}", profile="quickstart")


def test_a_corpus_without_labels_has_the_key_that_it_had_before_there_were_any(
    tmp_path: Path,
) -> None:
    absent, null = labelled(tmp_path), labelled(tmp_path, "label_column: null")
    assert absent.step("corpus").key == null.step("corpus").key
    assert set(absent.step("corpus").section) == {
        "kind", "column", "ctx", "max_tokens", "eval_fraction", "seed", "files",
    }  # fmt: skip


def test_labels_are_part_of_the_key_of_their_corpus_and_read_by_baselines_alone(
    tmp_path: Path,
) -> None:
    absent, given = labelled(tmp_path), labelled(tmp_path, "label_column: lang")
    assert absent.step("corpus").key != given.step("corpus").key
    for plan, readers in ((absent, 0), (given, 1)):
        reading = [s.name for s in plan.of("evaluation") if "corpus" in s.parents]
        assert len(reading) == readers
        assert all(name.startswith("baseline-") for name in reading)
