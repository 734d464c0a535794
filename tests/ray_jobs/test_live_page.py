from __future__ import annotations

import time
from pathlib import Path

import pytest

from paramcrop.storage.lease import Lease
from paramcrop.storage.mirror import Mirror
from paramcrop.sweeps.record import TrialRecord, write_record
from paramcrop.sweeps.trials import grid, make_trial
from ray_jobs.sweep import live_page
from tests.report.test_table import RIGHT, made_space, scores
from tests.sweeps.made import made_trial, write_space


def has_come(page: Path, text: str) -> bool:
    """Whether the page has the text within a minute."""
    for _ in range(600):
        if page.exists() and text in page.read_text():
            return True
        time.sleep(0.1)
    return False


def test_the_page_follows_the_trials_and_survives_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_page, "PAUSE", 0.05)
    variants = [{"label": label, "set": {"cropper.lower": i / 10}} for i, label in enumerate("abc")]
    space = made_space(params={}, variants=variants)
    folder = write_space(tmp_path / "sweep", space)
    first, second, third = (make_trial(space, values) for values in grid(space))
    write_record(folder, TrialRecord(second.id, second.label, second.values, "", state="running"))
    with Lease(folder), live_page.live_page(Mirror(folder)):
        made_trial(folder, space, first.values, scores({0: RIGHT[0]}))
        assert has_come(folder / "index.html", "1 of 3 trials have ended")
        (folder / "figures").rename(tmp_path / "figures")
        (folder / "figures").write_text("no folder")
        write_record(folder, TrialRecord(second.id, second.label, second.values, "", state="failed"))
        time.sleep(1)
        (folder / "figures").unlink()
        made_trial(folder, space, third.values, scores({0: RIGHT[1]}))
        assert has_come(folder / "index.html", "3 trials: 2 done, 1 failed")
