"""A small labelled dataset with splits, a tiny pretrained run, and evaluations of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from paramcrop.data.manifest import read_manifest, write_manifest
from paramcrop.data.shards import Video, write_shards
from paramcrop.data.synthetic import CLASSES, videos
from paramcrop.evaluation.job import Job
from paramcrop.evaluation.protocols import Protocol, find_protocol
from paramcrop.settings.identity import run_id
from paramcrop.storage.runs import write_provenance
from paramcrop.training.build import build_clip_spec
from paramcrop.training.pretrain import pretrain
from paramcrop.training.recorder import Recorder
from tests.memory import made_clips, memory_batches, tiny_config

TRAIN, TEST, BROKEN = 40, 18, 5  # two of the broken test videos are not in the shards at all
STORED = 16
RUN = ("train.epochs=2", "run.checkpoint_epochs=1", "run.log_every=1")
DATA = "some data"
SMALL = ("frames=4", "stride=3", "size=24")
RANKS = "ranks=[1,5,10,20]"  # no more than there are training videos


def _with_splits(seed: int) -> Iterator[Video]:
    """40 training videos and 16 test videos; the last three do not decode."""
    made = list(videos(TRAIN + STORED, 20, 32, 40, seed))
    for i, video in enumerate(sorted(made, key=lambda v: v.id)):
        split = ("train",) if i < TRAIN else ("test",)
        bytes_ = b"no video" if i >= TRAIN + TEST - BROKEN else video.video
        yield replace(video, splits=split, video=bytes_)


def make_labelled(folder: Path, seed: int = 0) -> str:
    """The dataset, whose preparation also rejected two test videos and one training video."""
    manifest = write_shards(_with_splits(seed), str(folder), CLASSES, row_group_rows=8)
    gone = [
        {"id": f"gone-{i}", "path": "", "splits": s, "reason": "gone"} for i, s in enumerate(("test", "test", "train"))
    ]
    write_manifest(replace(manifest, rejected=tuple(gone)), str(folder))
    return str(folder)


def make_run(folder: Path) -> Path:
    """A run of two epochs, with a checkpoint after each."""
    config = tiny_config(*RUN)
    clips = made_clips(16, config.data.clip_frames, config.data.clip_size)
    recorder = Recorder(folder)
    write_provenance(folder, config, DATA)
    pretrain(config, memory_batches(clips, build_clip_spec(config), config.seed, 8), 2, recorder)
    recorder.close()
    return folder


def small(protocol: str, *overrides: str) -> Protocol:
    """A protocol with numbers that suit the small dataset."""
    ranks = (RANKS,) if find_protocol(protocol).kind == "retrieval" else ()
    return find_protocol(protocol, (*SMALL, *ranks, *overrides))


def make_job(run: Path, folder: str, protocol: str, *overrides: str, subject: str = "run", seed: int = 0) -> Job:
    """The job that evaluate.py makes of this run on a CPU."""
    return Job(
        run=str(run),
        subject=subject,
        config=tiny_config(*RUN).on("cpu").model_dump(mode="json"),
        run_id=run_id(tiny_config(*RUN), DATA),
        run_data=DATA,
        checkpoint=str(run / "checkpoints" / "epoch=0002"),
        epoch=2,
        dataset="made-up",
        folder=folder,
        content_id=read_manifest(folder).content_id,
        data_id=read_manifest(folder).data_id,
        train="train",
        test="test",
        protocol=small(protocol, *overrides).model_dump(mode="json"),
        seed=seed,
    )
