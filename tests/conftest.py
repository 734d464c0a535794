from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paramcrop.data.manifest import Manifest, read_manifest
from paramcrop.data.synthetic import make_dataset
from paramcrop.storage import mirror
from tests.bucket import NAME, s3_server
from tests.labelled import make_labelled, make_run
from tests.wheel import Installed, install

torch.set_num_threads(2)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell starts what runs in its background so
    signal.signal(signal.SIGINT, signal.default_int_handler)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # set before kernels are defined: they run on the CPU, slowly


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    """48 small encoded videos in shards with three row groups."""
    folder = str(tmp_path_factory.mktemp("shards"))
    make_dataset(folder, count=48, frames=24, height=32, width=40, row_group_rows=16)
    return folder, read_manifest(folder)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A labelled dataset with two splits; three test videos do not decode."""
    return make_labelled(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run."""
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """An S3 server, whose bucket is ``NAME``."""
    with s3_server():
        yield


@pytest.fixture
def bucket(s3: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty folder in a bucket; this machine's copies lie below ``tmp_path``."""
    monkeypatch.setattr(mirror, "copies", lambda: tmp_path / "copies")
    return f"{NAME}/{tmp_path.name}"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The package as others get it."""
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def real_videos() -> Path:
    """The folder of real videos that PARAMCROP_TEST_VIDEOS names."""
    folder = os.environ.get("PARAMCROP_TEST_VIDEOS")
    if not folder:
        pytest.skip("PARAMCROP_TEST_VIDEOS names no folder of real videos")
    return Path(folder)
