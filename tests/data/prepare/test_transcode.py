"""Plans and their shards, below Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pytest

from paramcrop.data.killable import Killable
from paramcrop.data.manifest import read_manifest
from paramcrop.data.prepare.attempt import begin, finish, finished, leftovers, read_parts
from paramcrop.data.prepare.datasets import Dataset, Source, find_dataset
from paramcrop.data.prepare.plan import make_plan
from paramcrop.data.prepare.source import transcode
from paramcrop.data.prepare.transcode import make_shard, probe, read_source
from paramcrop.data.shards import check_shards, read_videos
from paramcrop.data.synthetic import render
from paramcrop.data.video import VideoReader, encode
from paramcrop.errors import DataError, VideoError
from ray_jobs.prepare.report import treated
from tests.data.prepare.made_plans import plan_of, prepare, same
from tests.data.prepare.made_sources import display_matrix, packets, remux, stripes, write


def test_the_plan_depends_on_the_videos_but_not_on_their_order(videos: str) -> None:
    dataset = find_dataset("folder", videos, None)
    reordered = replace(dataset, sources=dataset.sources[::-1])
    plan = plan_of(videos)
    assert make_plan(reordered, "folder", 16, 20, 2, 0) == plan
    changed = [replace(dataset.sources[0], bytes=1), *dataset.sources[1:]]
    others = [plan_of(videos, seed=1), make_plan(replace(dataset, sources=tuple(changed)), "folder", 16, 20, 2, 0)]
    assert len({plan.id, *(other.id for other in others)}) == 3
    assert others[0].pieces[0].sources != plan.pieces[0].sources


def test_a_shard_whose_videos_are_all_rejected_writes_no_file(videos: str, tmp_path: Path) -> None:
    plan, out = plan_of(videos, shard_videos=1), str(tmp_path)
    manifest = finish(out, plan, prepare(plan, videos, out))
    assert (len(plan.pieces), len(manifest.shards), manifest.videos) == (7, 6, 6)
    assert check_shards(out) == []


def test_missing_files_are_rejected_rows(videos: str, tmp_path: Path) -> None:
    dataset = find_dataset("folder", videos, None)
    gone = Source("gone.avi", "gone.avi", "up", ("train",), None)
    plan = make_plan(Dataset(dataset.classes, (*dataset.sources, gone)), "folder", 16, 20, 9, 0)
    manifest = finish(str(tmp_path), plan, prepare(plan, videos, str(tmp_path)))
    assert manifest.rejected[0] == {
        "id": "gone.avi",
        "path": "gone.avi",
        "splits": "train",
        "reason": "the file is missing",
    }
    assert len(manifest.rejected) == 2


def test_no_usable_video_is_an_error_and_the_folder_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "x.avi").write_text("no video")
    plan, out = plan_of(str(tmp_path / "v")), str(tmp_path / "out")
    with pytest.raises(DataError, match=r"none of the videos could be used \(1 rejected\); x\.avi: PyAV cannot decode"):
        finish(out, plan, prepare(plan, str(tmp_path / "v"), out))
    assert finished(out, same(plan)) is None


def test_a_video_that_takes_too_long_is_rejected_and_the_next_is_read(videos: str, tmp_path: Path) -> None:
    slow = tmp_path / "v" / "a.mp4"
    slow.parent.mkdir()
    slow.write_bytes(encode(np.zeros((2000, 128, 160, 3), np.uint8), 10.0).data)
    (slow.parent / "b.mp4").write_bytes(encode(np.zeros((3, 32, 32, 3), np.uint8), 10.0).data)
    fs, path = pa.fs.LocalFileSystem(), str(slow.parent)
    with Killable(transcode, 30) as convert:
        read_source(fs, f"{path}/b.mp4", convert, 16, 20)
        convert.timeout = 0.2
        with pytest.raises(VideoError, match=r"^reading took longer than 0\.2 s$"):
            read_source(fs, f"{path}/a.mp4", convert, 512, 20)
        convert.timeout = 30
        assert read_source(fs, f"{path}/b.mp4", convert, 16, 20)[0].frames == 3


def test_a_part_whose_videos_failed_by_time_is_prepared_again(videos: str, tmp_path: Path) -> None:
    plan, out = plan_of(videos), str(tmp_path)
    begin(out, fresh=False)
    part = make_shard(plan.pieces[0], videos, out, 1e-6)
    assert part.rejected and read_parts(out, plan) == {}
    parts = prepare(plan, videos, out)
    assert not any("took longer" in row["reason"] for row in finish(out, plan, parts).rejected)


def test_a_remote_file_is_copied_to_a_local_disk(videos: str) -> None:
    remote = pa.fs.SubTreeFileSystem(videos, pa.fs.LocalFileSystem())
    with Killable(transcode, 30) as convert:
        local = read_source(pa.fs.LocalFileSystem(), f"{videos}/test/up/5.mp4", convert, 16, 20)
        assert read_source(remote, "test/up/5.mp4", convert, 16, 20) == local
        with pytest.raises(VideoError, match=r"^PyAV cannot decode the video: Invalid"):
            read_source(remote, "train/up/1.mp4", convert, 16, 20)
        with pytest.raises(VideoError, match=r"^cannot be read: No such file or directory$"):
            read_source(remote, "absent.mp4", convert, 16, 20)


def test_fewer_frames_than_announced_is_a_warning(tmp_path: Path) -> None:
    data = encode(render("up", 64, 64, 80, np.random.default_rng(0)), 10.0).data
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "whole.mp4").write_bytes(data)
    import av

    with av.open(str(tmp_path / "v" / "whole.mp4")) as source, av.open(str(tmp_path / "v" / "cut.mkv"), "w") as sink:
        stream = sink.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                sink.mux(packet)
    cut = (tmp_path / "v" / "cut.mkv").read_bytes()
    (tmp_path / "v" / "cut.mkv").write_bytes(cut[: len(cut) // 2])
    plan, out = plan_of(str(tmp_path / "v")), str(tmp_path / "out")
    manifest = finish(out, plan, prepare(plan, str(tmp_path / "v"), out))
    (warning,) = manifest.warnings
    frames = {video.id: video.frames for video in read_videos(out)}
    assert warning == {"id": "cut.mkv", "path": "cut.mkv", "text": f"decoded {frames['cut.mkv']} of 64 frames"}
    assert 16 < frames["cut.mkv"] < 57 and frames["whole.mp4"] == 64


def test_the_manifest_says_what_was_done_to_sources(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    picture = stripes((30, 220))
    display_matrix(write(tmp_path / "v" / "turned.mp4", picture), 0, 1 << 16, -(1 << 16), 0)
    write(tmp_path / "v" / "full.mp4", picture, full=True, form="yuvj420p")
    write(tmp_path / "v" / "plain.mp4", picture)
    source, data = packets(30)
    data[12] = bytes(len(data[12]))
    remux(tmp_path / "v" / "bad.mp4", source, data)
    plan, out = plan_of(str(tmp_path / "v")), str(tmp_path / "out")
    manifest = finish(out, plan, prepare(plan, str(tmp_path / "v"), out))
    lost = "decoded 29 of 30 frames, 1 packet is damaged"
    done = {"turned": {"turned": "90"}, "full": {"range": "full"}, "bad": {"lost": lost}}
    expected = [{"id": f"{name}.mp4", "path": f"{name}.mp4"} | what for name, what in done.items()]
    assert sorted(manifest.treatments, key=str) == sorted(expected, key=str)
    assert manifest.warnings == ({"id": "bad.mp4", "path": "bad.mp4", "text": lost},)
    assert read_manifest(out) == manifest
    assert treated(manifest) == {"turned upright": 1, "full range made limited": 1, "frames lost or damaged": 1}


def test_errors_name_folders_that_a_node_cannot_access(videos: str, tmp_path: Path) -> None:
    piece = plan_of(videos).pieces[0]
    with pytest.raises(DataError, match="--videos must be a folder that every node can read"):
        make_shard(piece, "/absent", str(tmp_path), 30)
    with pytest.raises(DataError, match="this node cannot write to --out="):
        make_shard(piece, videos, str(tmp_path / "absent"), 30)
    with pytest.raises(DataError, match="cannot write to --out=/proc/absent"):
        begin("/proc/absent", fresh=False)


def test_a_full_disk_leaves_no_shard_that_looks_finished(
    videos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    plan, out = plan_of(videos), str(tmp_path)
    monkeypatch.setattr("paramcrop.data.prepare.transcode.close_shard", full)
    with pytest.raises(DataError, match=r"cannot write to --out=.* No space left on device"):
        prepare(plan, videos, out)
    assert read_parts(out, plan) == {} and not (tmp_path / plan.pieces[0].file).exists()
    monkeypatch.undo()
    finish(out, plan, prepare(plan, videos, out))
    assert check_shards(out) == leftovers(out) == []


def test_the_probe_counts_only_readable_videos(videos: str, tmp_path: Path) -> None:
    plan = plan_of(videos)
    estimate = probe(plan, videos, 30, most=7)
    assert estimate.videos == 6 and estimate.seconds > 0 and 0 < estimate.bytes < 10 * plan.bytes
    (tmp_path / "x.avi").write_text("no video")
    assert probe(plan_of(str(tmp_path)), str(tmp_path), 30).videos == 0


def test_real_broken_files_are_listed_and_the_others_kept(real_videos: Path, tmp_path: Path) -> None:
    folder, out = str(real_videos / "broken"), str(tmp_path)
    plan = plan_of(folder, short_side=64)
    manifest = finish(out, plan, prepare(plan, folder, out))
    reasons = {row["path"]: row["reason"] for row in manifest.rejected}
    bad = {"invalid-bitstream.webm", "random_bytes.mp4", "text.avi"}
    lossy = {"corrupted.mp4", "no_timescale.mp4", "truncated_kinetics.mkv", "truncated_ucf101.avi"}
    assert set(reasons) == {*bad, "sample_opus.mp4"}
    assert all("Invalid data found" in reasons[path] for path in bad) and "no" in reasons["sample_opus.mp4"]
    assert manifest.videos + len(reasons) == len(plan.sources)
    assert {row["path"] for row in manifest.warnings} == lossy
    assert {row["path"] for row in manifest.treatments if "lost" in row} == lossy
    for video in read_videos(out):
        VideoReader(video.video).read(np.array([0]))


def test_real_videos_with_a_table_of_labels(real_videos: Path, tmp_path: Path) -> None:
    folder, out = str(real_videos / "small"), str(tmp_path)
    dataset = find_dataset("folder", folder, f"{folder}/labels.csv")
    plan = make_plan(dataset, "folder", 64, 20, 4, 0)
    manifest = finish(out, plan, prepare(plan, folder, out))
    assert (manifest.videos, manifest.rejected, manifest.warnings) == (9, (), ())
    labels = {video.id: manifest.classes[video.label] for video in read_videos(out)}
    assert labels["flipping_a_pancake.mkv"] == "flipping pancake" and labels["v_Archery_g20_c01.avi"] == "Archery"


def test_real_ut_interaction(real_videos: Path, tmp_path: Path) -> None:
    folder, out = str(real_videos / "ut_interaction"), str(tmp_path)
    plan = make_plan(find_dataset("ut-interaction", folder, None), "ut-interaction", 32, 30, 256, 0)
    manifest = finish(out, plan, prepare(plan, folder, out))
    assert (manifest.videos, len(manifest.shards), manifest.rejected) == (60, 10, ())
    assert all(manifest.select(f"test{k}").videos + manifest.select(f"train{k}").videos == 60 for k in range(1, 11))
