"""The page of a sweep in a real browser: a script clicks, and what comes of it is read back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from paramcrop.report.page import write_report
from paramcrop.storage.lease import Lease
from paramcrop.sweeps.record import TrialRecord, write_record
from paramcrop.sweeps.trials import grid, make_trial
from tests.report.test_figures import searched
from tests.report.test_table import RIGHT, made_space, scores
from tests.sweeps.made import made_trial, write_space

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="needs chromium or google-chrome")
REPORT = """<script>
const seen = {errors: []};
addEventListener("error", event => seen.errors.push(event.message));
addEventListener("load", () => setTimeout(() => {
  try { %s } catch (error) { seen.errors.push(String(error)); }
  const out = document.createElement("output");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
}, 200));
</script>"""


def driven(page: Path, clicks: str, *options: str) -> dict[str, Any]:
    """Open the page without a network, run ``clicks``, which sets fields of ``seen`` -> those fields."""
    copy = page.with_name("driven.html")
    copy.write_text(page.read_text().replace("<head>", "<head>" + REPORT % clicks, 1))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=8000",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    folder = page.parent / "profile"
    command = [BROWSER, *flags, f"--user-data-dir={folder}", *options, "--dump-dom", copy.as_uri()]
    text = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<output id="seen">(.*?)</output>', text, re.S)
    assert found, text[-2000:]
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    assert seen.pop("errors") == []
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three finished trials of different accuracy, the last of which is called <b>."""
    variants = [
        {"label": label, "set": {"cropper.lower": i / 10}} for i, label in enumerate(("first", "second", "<b>"))
    ]
    space = made_space(params={}, variants=variants)
    folder = write_space(tmp_path / "sweep", space)
    for right, values in zip((RIGHT[0], RIGHT[2], RIGHT[1]), grid(space), strict=True):
        made_trial(folder, space, values, scores({0: right}))
    return folder


def test_charts_answer_and_tables_sort_filter_and_lead_to_the_runs(folder: Path) -> None:
    seen = driven(
        write_report(folder)[0],
        """
        const table = document.getElementById("results"), names = () => [...table.tBodies[0].rows]
          .filter(row => !row.hidden).map(row => row.cells[0].querySelector("a").textContent);
        seen.charts = [...document.querySelectorAll(".chart")].map(c => c.data.length > 0 && !!c.querySelector("svg"));
        seen.stills = [...document.querySelectorAll(".still")].map(one => getComputedStyle(one).display);
        seen.before = names();
        table.tHead.rows[0].cells[1].click();
        seen.best = names();
        table.tHead.rows[0].cells[1].click();
        seen.worst = names();
        table.tHead.rows[0].cells[0].click();
        seen.named = names();
        const box = document.querySelector("input.filter");
        box.value = "SECOND";
        box.dispatchEvent(new Event("input"));
        seen.kept = names();
        const link = table.tBodies[0].rows[0].cells[1].querySelector("a").getAttribute("href");
        seen.closed = document.getElementById(link.slice(1)).open;
        location.hash = link;
        openTarget();
        seen.opened = document.getElementById(link.slice(1)).open;
        seen.wide = document.documentElement.scrollWidth <= innerWidth;
        """,
    )
    assert seen["charts"] == [True, True] and seen["stills"] == ["none", "none"]
    assert seen["before"] == ["first", "second", "<b>"]
    assert seen["best"] == ["second", "<b>", "first"] and seen["worst"] == ["first", "<b>", "second"]
    assert seen["named"] == ["<b>", "first", "second"] and seen["kept"] == ["second"]
    assert (seen["closed"], seen["opened"], seen["wide"]) == (False, True, True)


def test_a_search_has_parallel_coordinates_and_importances_on_a_narrow_screen(tmp_path: Path) -> None:
    searched(tmp_path / "sweep", complete=15)
    seen = driven(
        write_report(tmp_path / "sweep")[0],
        """
        seen.charts = [...document.querySelectorAll(".chart")].map(c => c.data.length > 0);
        seen.captions = [...document.querySelectorAll("figcaption")].map(one => one.textContent.slice(0, 12));
        seen.wide = document.documentElement.scrollWidth <= innerWidth;
        """,
        "--window-size=500,900",
    )
    assert len(seen["charts"]) == 5 and all(seen["charts"]) and seen["wide"]
    assert seen["captions"][1:3] == ["All settings", "How much eac"]


def test_the_page_of_a_running_sweep_says_how_far_it_is_and_loads_itself_anew(folder: Path) -> None:
    space = made_space(params={}, variants=[{"label": n, "set": {"cropper.lower": i / 10}} for i, n in enumerate("ab")])
    other = write_space(folder.parent / "other", space)
    done, going = (make_trial(space, values) for values in grid(space))
    made_trial(other, space, done.values, scores({0: RIGHT[0]}))
    write_record(other, TrialRecord(going.id, going.label, going.values, "", state="running", doing="step 7"))
    with Lease(other):
        page = write_report(other)[0]
    seen = driven(page, """seen.text = document.querySelector("progress").parentElement.textContent;
                           seen.value = document.querySelector("progress").value;""")  # fmt: skip
    assert seen["value"] == 1 and "1 of 2 trials have ended" in seen["text"]
    assert "location.reload()" in page.read_text()
    assert "location.reload()" not in write_report(other)[0].read_text()  # no sweep is alive
