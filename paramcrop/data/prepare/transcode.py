"""Transcode one piece of work into a shard and its part file. It can be killed and restarted at any moment."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs

from paramcrop.data.killable import NOT_NOW, Killable
from paramcrop.data.manifest import Shard
from paramcrop.data.prepare.datasets import Source
from paramcrop.data.prepare.plan import Part, Piece, Plan, part_path, rejection
from paramcrop.data.prepare.source import transcode
from paramcrop.data.shards import SCHEMA, HashedParquet, Video, close_shard, row_groups
from paramcrop.data.video import Encoded
from paramcrop.errors import DataError, VideoError
from paramcrop.storage.files import atomic_write_on, digest, open_folder

COMPLETE = 0.9  # a video with a smaller fraction of the frames that its container announces gets a warning
Convert = Killable[[str, int, int], Encoded]


def make_shard(
    piece: Piece,
    videos: str,
    out: str,
    timeout: float,
    report: Callable[[int, int], None] = lambda done, rejected: None,
) -> Part:
    """Transcode the videos of a piece into its shard below ``out``, then write its part.

    Args:
        timeout: seconds that a video may take.
        report: called after each video with the numbers of finished and of rejected videos.

    Raises:
        DataError: this node cannot read the folder of the videos, or cannot write to ``out``.
    """
    fs, root = open_folder(out)
    source_fs, source_root = open_folder(videos)
    if source_fs.get_file_info(source_root).type != pa.fs.FileType.Directory:
        raise DataError(f"--videos must be a folder that every node can read, but {videos} is missing on this one")
    part = Part(piece.id)
    try:
        with Killable(transcode, timeout) as convert:
            rows = _videos(piece, source_fs, source_root, convert, part, report)
            part = replace(part, shard=_write_shard(fs, root, piece, rows))
        with atomic_write_on(fs, part_path(root, piece)) as temporary, fs.open_output_stream(temporary) as sink:
            sink.write(json.dumps(asdict(part)).encode())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"this node cannot write to --out={out}, which all nodes must share: {error}") from error
    return part


def read_source(fs: pa.fs.FileSystem, path: str, convert: Convert, short_side: int, crf: int) -> tuple[Encoded, str]:
    """Re-encode a source file -> the video and the sha256 of the source. A remote file is copied to a local disk first.

    Raises:
        VideoError: the file cannot be read or decoded; the text does not contain its name.
    """
    name = path
    try:
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(fs.open_input_stream(path, compression=None))
            if isinstance(fs, pa.fs.LocalFileSystem):
                _, sha256 = digest(source)
            else:
                suffix = PurePosixPath(path).suffix
                name = str(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paramcrop-"))) / f"v{suffix}")
                with open(name, "wb") as copy:
                    _, sha256 = digest(source, copy)
            return convert(name, short_side, crf), sha256
    except VideoError as error:
        raise VideoError(str(error).removeprefix(f"{name}: ")) from error
    except (OSError, pa.ArrowException) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        known = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR)
        raise VideoError(f"{'cannot be read' if known else NOT_NOW}: {reason}") from error


def _videos(
    piece: Piece, fs: pa.fs.FileSystem, root: str, convert: Convert, part: Part, report: Callable[[int, int], None]
) -> Iterator[Video]:
    """The rows of a piece; every video, good or bad, is recorded in ``part``."""
    short_side, crf = piece.settings["short_side"], piece.settings["crf"]
    for source, label in zip(piece.sources, piece.labels, strict=True):
        try:
            encoded, sha256 = read_source(fs, f"{root}/{source.path}", convert, short_side, crf)
        except VideoError as error:
            part.rejected.append(rejection(source, str(error)))
        else:
            part.sources.append((source.id, sha256))
            record(part, source, encoded)
            e = encoded
            kept = e.data, e.fps, e.frames, e.height, e.width
            yield Video(source.id, *kept, label, piece.splits, sha256, source.group)
        report(part.done, len(part.rejected))


def record(part: Part, source: Source, encoded: Encoded) -> None:
    """Enter into ``part`` what was lost of a video and what was done to it."""
    name, lost, e = {"id": source.id, "path": source.path}, list[str](), encoded
    if e.frames < COMPLETE * e.announced or (e.damage and e.frames < e.announced):
        lost.append(f"decoded {e.frames} of {e.announced} frames")
    if e.damage:
        lost.append(e.damage)
    if lost:
        part.warnings.append(name | {"text": ", ".join(lost)})
    if treatment := e.treatment | ({"lost": ", ".join(lost)} if lost else {}):
        part.treatments.append(name | treatment)


def _write_shard(fs: pa.fs.FileSystem, root: str, piece: Piece, videos: Iterator[Video]) -> Shard | None:
    """Write atomically, because another attempt may be writing the same shard."""
    path = f"{root}/{piece.file}"
    groups = row_groups(videos)
    first = next(groups, None)
    if first is None:
        return None
    with atomic_write_on(fs, path) as temporary:
        file = HashedParquet(fs, temporary, SCHEMA)
        for rows in chain([first], groups):
            file.write([asdict(row) for row in rows])
        return close_shard(file, piece.file, piece.splits)


@dataclass(frozen=True)
class Estimate:
    """Estimated ``bytes`` of all shards and ``seconds`` on one core, from ``videos`` samples; 0 videos: unknown."""

    videos: int
    bytes: float
    seconds: float


def probe(plan: Plan, videos: str, timeout: float, most: int = 6) -> Estimate:
    """Transcode up to ``most`` random videos to estimate the cost; videos that cannot be read are skipped."""
    fs, root = open_folder(videos)
    drawn = random.Random(0).sample(plan.sources, min(most, len(plan.sources)))
    tried, read, written, seconds = 0, 0, 0, 0.0
    with Killable(transcode, timeout) as convert:
        for i, source in enumerate([*drawn[:1], *drawn]):  # the first one twice, to exclude the start of the process
            start = time.monotonic()
            try:
                path = f"{root}/{source.path}"
                encoded, _ = read_source(fs, path, convert, plan.settings["short_side"], plan.settings["crf"])
            except VideoError:
                continue
            if i > 0:
                tried, read, written = tried + 1, read + (source.bytes or 0), written + len(encoded.data)
                seconds += time.monotonic() - start
    if not tried:
        return Estimate(0, 0, 0)
    return Estimate(tried, plan.bytes * written / max(read, 1), len(plan.sources) * seconds / tried)
