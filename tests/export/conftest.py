from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paramcrop.evaluation.evaluate import evaluate
from paramcrop.export.load import from_run
from paramcrop.storage.results import write_result
from tests.labelled import make_job

CLIPS = "test_clips=2"  # five times as fast as ten


@pytest.fixture(scope="session")
def evaluated(tiny_run: Path, labelled: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run with results of two protocols, and of a baseline."""
    copy = tmp_path_factory.mktemp("evaluated") / "tiny"
    shutil.copytree(tiny_run, copy)
    jobs = [make_job(copy, labelled, protocol, CLIPS) for protocol in ("knn", "paper-retrieval-10clip")]
    for job in (*jobs, replace(jobs[0], subject="pixels")):
        write_result(job.result_file, evaluate(job, torch.device("cpu"), map))
    return copy


@pytest.fixture(scope="session")
def exported(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run's encoder."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    from_run(evaluated, licence="cc-by-4.0").save_pretrained(folder)
    return folder
