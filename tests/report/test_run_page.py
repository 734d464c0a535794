from __future__ import annotations

import base64
import json
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paramcrop.errors import DataError
from paramcrop.report import run_page
from paramcrop.report.run_page import refresh_page, worker_text, write_page
from paramcrop.storage.jsonl import append_line, read_lines
from paramcrop.storage.mirror import Mirror
from paramcrop.storage.runs import write_status
from tests.labelled import make_run
from tests.report.test_page import Reader

MOST = 3e6  # bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run with a lost video of a hostile name, and a warning."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "tiny-0123")
    append_line(folder / "history.jsonl", {"event": "workers", "step": 0, "epoch": 0, "workers": 1, "device": "cpu"})
    write_status(folder, "finished", checkpoint="epoch=0002")
    lost = {"step": 2, "id": "<b>x</b>", "reason": "no frames", "substitute": "y"}
    (folder / "failures.jsonl").write_text(2 * (json.dumps(lost) + "\n"))
    (folder / "warnings.jsonl").write_text(json.dumps({"step": 4, "text": "step 4: the run has not learned"}) + "\n")
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def pictures(page: str, kind: str) -> list[Image.Image]:
    urls = [link for link in Reader(page).links if link.startswith(f"data:image/{kind};base64,")]
    return [Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def test_the_page_needs_no_network_and_is_small(run: Path) -> None:
    page = write_page(run)
    text, found = page.read_text(), Reader(page.read_text())
    assert page == run / "index.html" and page.stat().st_size < MOST
    assert "http://" not in text and "https://" not in text and "url(" not in text and "@import" not in text
    assert found.links and all(link.startswith(("data:image/png;", "data:image/webp;")) for link in found.links)
    assert not {"script", "link", "iframe", "object", "b"} & set(found.tags)


def test_it_has_the_curves_and_a_film_of_the_crops(run: Path) -> None:
    page = write_page(run).read_text()
    (curves,) = pictures(page, "png")
    assert curves.size[0] > 1000 and len(np.unique(np.asarray(curves.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    films = pictures(page, "webp")
    assert [getattr(film, "n_frames", 1) for film in films] == [8, 8]  # the clip's frames
    snapshots = len(list((run / "crops").glob("*.npz")))
    assert films[0].size[0] == snapshots * (5 * 32 + 4)  # a tile for each


def test_it_says_what_the_run_was_and_what_was_lost(run: Path) -> None:
    text = Reader(write_page(run).read_text()).text
    metrics, origin = read_lines(run / "metrics.jsonl"), json.loads((run / "provenance.json").read_text())
    for shown in ("tiny-0123: finished at step 4", "step 4: the run has not learned", "<b>x</b>", "no frames"):
        assert shown in text
    assert f"{metrics[-1]['loss']:.3f}" in text and f"{metrics[-1]['rank']:.1f}" in text and "2.708" in text
    assert "2 samples (6.25% of 32) of 1 video could not be read" in text
    for shown in (
        origin["run_id"],
        origin["data"],
        origin["commit"],
        origin["versions"]["torch"],
        "1 x cpu",
        "global_batch",
    ):
        assert shown in text


def test_a_run_of_an_older_version_has_a_page(run: Path) -> None:
    """Without the newer metrics, with settings that no longer exist, without saved crops."""
    kept = ("step", "epoch", "loss", "crop_distance", "crop_iou")
    lines = [{name: line[name] for name in kept} for line in read_lines(run / "metrics.jsonl")]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "config.yaml").write_text("method: simclr\nno_longer: 1\n")
    shutil.rmtree(run / "crops")
    page = write_page(run).read_text()
    assert len(pictures(page, "png")) == 1 and pictures(page, "webp") == [] and "<th>loss by chance" not in page


def test_a_page_that_cannot_be_written_is_a_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refresh_page(Mirror(run)) == [] and (run / "index.html").exists()

    def fails(*arguments: object) -> bytes:
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(run_page, "animate_crops", fails)
    assert refresh_page(Mirror(run)) == ["note: the run's page was not written: no memory"]
    (run / "metrics.jsonl").unlink()
    assert refresh_page(Mirror(run)) == []
    with pytest.raises(DataError, match="has none yet"):
        write_page(run)


def test_it_says_how_many_workers_trained_from_which_step() -> None:
    starts = [(0, 2, "cpu"), (8, 1, "cpu"), (9, 1, "cpu"), (20, 2, "cpu"), (30, 2, "cuda")]
    history = [{"event": "workers", "step": step, "workers": n, "device": device} for step, n, device in starts]
    told = "2 x cpu, 1 x cpu from step 8, 2 x cpu from step 20, 2 x cuda from step 30"
    assert worker_text([{"event": "running"}, *history, {"event": "finished"}]) == told
    assert worker_text([]) == ""
