"""The report in a real browser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.report import write
from tests.tasks.report_samples import index, member, report


def rendered(page: Path, profile: Path) -> tuple[str, str]:
    """Return a page's elements after its scripts ran, and what it complained of."""
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--virtual-time-budget=10000",
        f"--user-data-dir={profile}",
    ]
    done = subprocess.run(
        [browser, *flags, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(complaints)


@pytest.mark.slow
def test_a_browser_draws_every_plot_without_complaint(tmp_path: Path) -> None:
    value = report(member(), member("frozen-random", is_control=True))
    write(value, tmp_path / "report")
    page, complaints = rendered(tmp_path / "report/index.html", tmp_path / "profile")
    assert complaints == ""
    assert page.count('class="plot js-plotly-plot"') == 7


@pytest.mark.slow
def test_pressing_a_heading_sorts_and_typing_filters(tmp_path: Path) -> None:
    value = report(member("a", fvu=0.2), member("b", fvu=0.3), member("c", fvu=0.1))
    page = index(value, tmp_path)
    page = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page)
    presses = """<script>
      const heading = document.querySelectorAll("#family thead button")[2];
      heading.click();
      heading.click();
      const filter = document.getElementById("filter");
      filter.value = "b few";
      filter.dispatchEvent(new Event("input"));
    </script>"""
    # The policy is taken out so that the page runs this further script; the plots,
    # whose script is taken out too, are not drawn.
    page = page.replace("</body>", f"{presses}</body>")
    (tmp_path / "pressed.html").write_text(page, encoding="utf-8")
    after, _ = rendered(tmp_path / "pressed.html", tmp_path / "profile")
    table = after[after.index('id="family"') :]
    rows = re.findall(r'<th scope="row">(\w+)', table[: table.index("</table>")])
    assert rows == ["PCA", "b", "a", "c"]
    assert ">1 of 6<" in after
