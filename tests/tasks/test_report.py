"""Tests of the web report: its bytes, its links, its escaping and its marks."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet
import pytest

from tasks.report import formatting, labels, latent_page, proxies, write
from tests.tasks.report_samples import (
    HOSTILE,
    crosscoder,
    index,
    member,
    of_two_hooks,
    report,
    scalar,
    written,
)


class Elements(HTMLParser):
    """Collects every start tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, attribute: str) -> list[str]:
        return [a[attribute] or "" for _, a in self.found if attribute in a]


def test_equal_reports_give_equal_bytes(tmp_path: Path) -> None:
    assert written(report(), tmp_path / "a") == written(report(), tmp_path / "b")


def test_the_folder_holds_pages_and_data(tmp_path: Path) -> None:
    assert set(written(report(), tmp_path)) == {
        "family.parquet",
        "index.html",
        "latents.parquet",
        "latents/topk-k16/0.html",
        "latents/topk-k16/2.html",
        "latents/topk-k32/0.html",
        "latents/topk-k32/2.html",
        "report.json",
    }


def test_every_page_links_only_to_files_of_the_report(tmp_path: Path) -> None:
    for name, content in written(report(), tmp_path).items():
        if name.endswith(".html"):
            elements = Elements(content.decode())
            targets = elements.values("href") + elements.values("src")
            files = [t for t in targets if not t.startswith("#")]
            assert all(((tmp_path / name).parent / t).exists() for t in files), name


def test_section_links_point_at_sections(tmp_path: Path) -> None:
    elements = Elements(index(report(), tmp_path))
    anchors = [h[1:] for h in elements.values("href") if h.startswith("#")]
    assert set(anchors) <= set(elements.values("id"))


def test_every_explained_latent_is_linked(tmp_path: Path) -> None:
    links = Elements(index(report(), tmp_path)).values("href")
    pages = list(tmp_path.glob("latents/*/*.html"))
    assert {str(p.relative_to(tmp_path)) for p in pages} <= set(links)


def test_the_policy_allows_the_scripts_inlined_and_nothing_else(tmp_path: Path) -> None:
    for name, content in written(report(), tmp_path).items():
        if not name.endswith(".html"):
            continue
        page = content.decode()
        scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
        digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
        allowed = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
        policy = next(
            attributes["content"]
            for tag, attributes in Elements(page).found
            if "http-equiv" in attributes
        )
        assert policy == (
            "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
            f"script-src {allowed}"
        )


def test_plotly_is_inlined_once_and_only_in_the_index(tmp_path: Path) -> None:
    pages = written(report(), tmp_path)
    sizes = {name: len(page) for name, page in pages.items()}
    assert 4_000_000 < sizes.pop("index.html") < 6_000_000
    assert max(sizes.values()) < 100_000


def test_corpus_text_is_escaped_in_every_page(tmp_path: Path) -> None:
    for name, content in written(report(), tmp_path).items():
        if name.endswith(".html"):
            page = content.decode()
            assert "<script>alert" not in page, name
            assert "&lt;script&gt;alert" in page, name
            assert "{{ 7 * 7 }}" in page or "{{·7·*·7·}}" in page, name


def test_hostile_names_do_not_break_the_figures(tmp_path: Path) -> None:
    page = index(report(member("a"), replace(member("b"), name=HOSTILE)), tmp_path)
    figures = re.search(r'id="figures">(.*?)</script>', page, flags=re.DOTALL)
    assert figures is not None
    curve = json.loads(figures[1])["plot-curve-fvu"]
    assert [trace["name"] for trace in curve["data"]] == ["a", HOSTILE]


def test_missing_values_are_shown_as_a_dash(tmp_path: Path) -> None:
    page = index(report(), tmp_path)
    row = re.search(r">ce_recovered_mean<.*?</tr>", page, flags=re.DOTALL)
    assert row is not None
    assert re.findall(r'class="value">(.*?)<', row[0]) == [formatting.MISSING] * 3
    assert 'title="undefined: the ablation costs nothing; ' in row[0]


def test_what_is_undefined_is_listed_with_its_reason(tmp_path: Path) -> None:
    page = index(report(), tmp_path)
    found = re.search(r'<ul id="undefined">(.*?)</ul>', page, flags=re.DOTALL)
    assert found is not None
    assert re.sub(r"<.*?>", "", found[1]).split("\n") == [
        "",
        "ce_recovered_mean of topk-k16, topk-k32: the ablation costs nothing",
        "",
    ]


def test_a_family_whose_numbers_are_all_defined_lists_none(tmp_path: Path) -> None:
    whole = member(metrics={"fvu": scalar(0.3)})
    assert 'id="undefined"' not in index(report(whole), tmp_path)


@pytest.mark.parametrize(
    ("pca", "mark"),
    [(0.2, "PCA wins at equal rate"), (0.31, "PCA as good at equal rate"), (0.5, None)],
)
def test_pca_is_marked_where_it_does_as_well(
    pca: float, mark: str | None, tmp_path: Path
) -> None:
    sae = member(fvu=0.3, controls={"pca": {"fvu": scalar(pca)}})
    page = index(report(sae), tmp_path)
    found = re.findall(r'class="mark">(.*?)<', page)
    verdicts = ("control lower", "not told apart")
    assert [text for text in found if text not in verdicts] == ([mark] if mark else [])


@pytest.mark.parametrize(
    ("control", "mark"),
    [
        ("pca", "PCA as good at equal rate"),
        ("frozen_random", "frozen-random not worse at equal l0"),
    ],
)
def test_latents_no_less_mixed_than_a_controls_are_marked(
    control: str, mark: str, tmp_path: Path
) -> None:
    """An fvu far below the control's says nothing of that."""
    controls = {control: {"fvu": scalar(0.9), "polysemanticity": scalar(0.505)}}
    page = index(report(member(fvu=0.1, controls=controls)), tmp_path)
    found = re.findall(r'class="value">([^<]*)</span>(?:(?!<td).)*?"mark">(.*?)<', page)
    assert found == [("0.500", mark), ("0.505", "not told apart")]


@pytest.mark.parametrize(
    ("random", "is_marked"), [(0.2, True), (0.3, True), (0.5, False)]
)
def test_frozen_random_is_marked_where_it_is_not_worse(
    random: float, is_marked: bool, tmp_path: Path
) -> None:
    sae = member(fvu=0.3, controls={"frozen_random": {"fvu": scalar(random)}})
    page = index(report(sae), tmp_path)
    assert ("frozen-random not worse at equal l0" in page) is is_marked


def test_the_page_says_what_controls_of_a_transcoder_read(tmp_path: Path) -> None:
    said = "controls read what it reconstructs"
    assert said in index(of_two_hooks(), tmp_path / "two")
    assert said not in index(report(), tmp_path / "one")


def test_the_page_shows_where_a_crosscoder_has_its_decoder(tmp_path: Path) -> None:
    page = index(report(crosscoder()), tmp_path / "two")
    assert "decoder norm at A" in page
    assert "live latents by their decoder&#39;s share at B" in page
    # Of the three latents one is dead: the others have bars of one each.
    assert "0.95 to 1: 1" in page
    assert "0.1 to 0.15" not in page
    assert "fvu of what a crosscoder reconstructs at B alone" in page
    assert "decoder norm" not in index(report(), tmp_path / "one")


def test_a_latents_page_tells_its_share_at_each_hook() -> None:
    facts = dict(latent_page.pages(crosscoder())[0].facts)
    assert facts["share of decoder norm at A"] == "0.980"
    assert facts["share of decoder norm at B"] == "0.0200"


def test_a_family_without_controls_curves_or_explanations_has_a_report(
    tmp_path: Path,
) -> None:
    bare = member(
        metrics={},
        controls={},
        explanations=[],
        curve=[],
        latents={},
        rate_curve=dict.fromkeys(("bin_width", "rate_bits", "fvu"), ()),
        parts={},
    )
    page = index(report(bare, caution=None), tmp_path)
    assert "Against the controls" not in page
    assert "Plotly" not in page


def test_a_toy_shows_what_its_own_features_cost(tmp_path: Path) -> None:
    of_features = {"rate_bits": scalar(77.25), "fvu": scalar(0.0625)}
    of_features |= {"l0": scalar(3.25), "l0_theory": scalar(3.2421)}
    toy = member(controls={"monosemantic": of_features})
    page = index(report(toy, has_features=True), tmp_path)
    assert "rate_bits of monosemantic at this l0" in page
    assert "77.2" in page
    assert "its l0 in theory" in page
    assert "3.24" in page
    assert "monosemantic at this l0" not in index(report(toy), tmp_path / "text")


def test_clusters_that_occur_together_are_named_by_their_tokens(tmp_path: Path) -> None:
    pair = {"first": 3, "second": 5, "first_tokens": [" def", HOSTILE]}
    pair |= {"second_tokens": ["return"], "together": 4.25, "sharing": 2.125}
    pair |= {"latent": 17, "latent_share": 0.5, "first_share": 0.7, "second_share": 0.2}
    page = index(report(member(shared=[pair])), tmp_path)
    assert "Co-occurrence in the text" in page
    assert "\N{MIDDLE DOT}def" in page
    assert HOSTILE not in page
    assert "4.25" in page
    assert "Co-occurrence in the text" not in index(report(member()), tmp_path / "no")


def test_a_toy_shows_participation(tmp_path: Path) -> None:
    toy = member(latents={"latent": [0], "density": [0.1], "participation": [1.5]})
    page = index(report(toy, has_features=True), tmp_path)
    assert "participation over the true features" in page


def test_a_latents_page_shows_its_examples(tmp_path: Path) -> None:
    page = written(report(), tmp_path)["latents/topk-k16/0.html"].decode()
    marks = re.findall(r'<mark.*?style="--a:(.*?)" title="(.*?)">', page)
    assert marks == [
        ("1.00", "2 at document 31, position 11"),
        ("0.25", "0.500 at document 31, position 12"),
    ]
    assert "·x↵" in page
    assert 'rel="next" href="2.html"' in page
    assert "silent throughout; chosen from 90 tokens in 8 documents" in page


def test_an_unexplained_latent_says_why(tmp_path: Path) -> None:
    page = written(report(), tmp_path)["latents/topk-k16/2.html"].decode()
    assert '<p class="explanation quiet">too few examples to explain</p>' in page


def test_the_json_holds_what_was_measured(tmp_path: Path) -> None:
    value = report()
    saved = json.loads(written(value, tmp_path)["report.json"])
    assert saved["members"][0]["metrics"] == value.members[0].metrics
    assert saved["members"][0]["explanations"] == value.members[0].explanations


def test_the_family_table_has_a_row_for_each_scalar(tmp_path: Path) -> None:
    write(report(member()), tmp_path)
    rows = pyarrow.parquet.read_table(tmp_path / "family.parquet").to_pylist()
    found = [(row["source"], row["metric"], row["value"]) for row in rows]
    assert found == [
        ("sae", "rate_bits", 100.0),
        ("sae", "fvu", 0.3),
        ("sae", "polysemanticity", 0.5),
        ("sae", "ce_recovered_mean", None),
        ("pca", "fvu", 0.5),
        ("pca", "rate_bits", 100.0),
        ("frozen_random", "fvu", 0.7),
    ]
    reasons = [row["reason"] for row in rows if row["value"] is None]
    assert reasons == ["the ablation costs nothing"]


def test_what_is_undefined_of_a_latent_is_null_in_parquet(tmp_path: Path) -> None:
    write(report(member()), tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "latents.parquet")
    assert table["n_eff"].to_pylist() == [2.0, 3.0, None]
    assert table["explanation"].to_pylist() == [f"token {HOSTILE}", None, None]
    assert table["predicate_f1"].to_pylist() == [0.7, None, None]


def test_two_members_may_not_share_a_folder() -> None:
    with pytest.raises(AssertionError):
        report(member(), member())


def test_a_slug_may_not_leave_its_folder() -> None:
    with pytest.raises(AssertionError):
        member("../escape")


COUPLE = {
    "narrow": "topk-k16",
    "wide": HOSTILE,
    "metrics": {name: scalar(0.5) for name in labels.SPLITS},
    "most_split": [{"latent": 7, "children": [3, 21]}],
}


def test_splits_are_shown_with_the_latents_of_most_children(tmp_path: Path) -> None:
    page = index(report(splits=(COUPLE,)), tmp_path)
    assert "7: 3, 21" in page
    assert HOSTILE not in page


def test_one_width_has_no_section_on_splitting(tmp_path: Path) -> None:
    assert 'id="splits"' not in index(report(), tmp_path)


def test_the_headline_says_which_conditions_it_passes(tmp_path: Path) -> None:
    method = "n_eff/null, kmeans64, sif16; firing-weighted mean over live latents"
    headline = {"polysemanticity": scalar(0.5) | {"method": method}}
    page = index(report(member(metrics=member().metrics | headline)), tmp_path)
    assert "n_eff/null passes C1, " in page
    assert re.search(r"and fails [^.]*C4 and, C5 and", page)


def test_a_measure_that_was_never_tried_has_no_verdict() -> None:
    assert proxies.verdict("by hand; mean") == ""


def test_every_measure_of_the_harness_is_shown_with_what_was_planted(
    tmp_path: Path,
) -> None:
    seen = [{"measure": "monoscore", "conjunctive": -0.75, "disjunctive": None}]
    page = index(report(member(planted=seen)), tmp_path)
    rows = re.findall(r'<th scope="row">monoscore</th>.*?</tr>', page)
    assert len(rows) == 1
    assert rows[0].count("n/a") == 1
    assert rows[0].endswith(
        '<td class="number">-0.75</td><td class="number">–</td></tr>'
    )
