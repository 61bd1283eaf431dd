"""What the keys of a run's steps are made of."""

import hashlib
from pathlib import Path

from storage.home import Home
from tasks import plan as planning
from tasks.plan import Plan
from trilemma import config


def made(home: Path, *words: str) -> Plan:
    return planning.make(config.load("configs/toy.yaml", words), Home(home))


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
