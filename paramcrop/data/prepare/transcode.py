"""One piece of work -> its shard, then the part that says so. Safe to kill at any moment and start again."""

from __future__ import annotations

import contextlib
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

from paramcrop.data.killable import Killable
from paramcrop.data.manifest import Shard
from paramcrop.data.prepare.plan import Part, Piece, Plan, part_path, rejection
from paramcrop.data.shards import SCHEMA, HashedParquet, Video, close_shard, row_groups
from paramcrop.data.video import Encoded, transcode
from paramcrop.errors import DataError, VideoError
from paramcrop.storage.files import digest, open_folder, whole_on

WHOLE = 0.9  # a video is warned of when fewer of the frames that its container announces were decoded
Convert = Killable[[str, int, int], Encoded]


def make_shard(
    piece: Piece, videos: str, out: str, timeout: float, tell: Callable[[int, int], None] = lambda done, rejected: None
) -> Part:
    """Transcode a piece's videos into its shard below ``out``, then write its part.

    Args:
        timeout: seconds a video may take.
        tell: called after each video with the number finished and that of those rejected.

    Raises:
        DataError: the videos' folder cannot be read or ``out`` cannot be written to from here.
    """
    fs, root = open_folder(out)
    source_fs, source_root = open_folder(videos)
    if source_fs.get_file_info(source_root).type != pa.fs.FileType.Directory:
        raise DataError(f"--videos must be a folder that every node can read, but {videos} is not there on this one")
    part = Part(piece.id)
    try:
        with Killable(transcode, timeout) as convert:
            rows = _videos(piece, source_fs, source_root, convert, part, tell)
            part = replace(part, shard=_write_shard(fs, root, piece, rows))
        with whole_on(fs, part_path(root, piece)) as making, fs.open_output_stream(making) as sink:
            sink.write(json.dumps(asdict(part)).encode())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"--out must be a folder that every node can write to, but {out} is not: {error}") from error
    return part


def read_source(fs: pa.fs.FileSystem, path: str, convert: Convert, short_side: int, crf: int) -> tuple[Encoded, str]:
    """A source file, encoded anew, and its sha256; one that is not on a local disk is copied there first.

    Raises:
        VideoError: it cannot be read or decoded; the text does not name it.
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
        told = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise VideoError(f"must be readable, but is not: {told}") from error


def _videos(
    piece: Piece, fs: pa.fs.FileSystem, root: str, convert: Convert, part: Part, tell: Callable[[int, int], None]
) -> Iterator[Video]:
    """The rows of a piece; ``part`` learns of every video, good or bad."""
    short_side, crf = piece.settings["short_side"], piece.settings["crf"]
    for source, label in zip(piece.sources, piece.labels, strict=True):
        try:
            encoded, sha256 = read_source(fs, f"{root}/{source.path}", convert, short_side, crf)
        except VideoError as error:
            part.rejected.append(rejection(source, str(error)))
        else:
            part.sources.append((source.id, sha256))
            if encoded.frames < WHOLE * encoded.announced:
                text = f"decoded {encoded.frames} of {encoded.announced} frames"
                part.warnings.append({"id": source.id, "path": source.path, "text": text})
            e = encoded
            yield Video(source.id, e.data, e.fps, e.frames, e.height, e.width, label, piece.splits, sha256)
        tell(part.done, len(part.rejected))


def _write_shard(fs: pa.fs.FileSystem, root: str, piece: Piece, videos: Iterator[Video]) -> Shard | None:
    """Under a name of its own until it is whole: another attempt at the piece may still be writing elsewhere."""
    path = f"{root}/{piece.file}"
    groups = row_groups(videos)
    first = next(groups, None)
    if first is None:
        return None
    with whole_on(fs, path) as making:
        file = HashedParquet(fs, making, SCHEMA)
        for rows in chain([first], groups):
            file.write([asdict(row) for row in rows])
        return close_shard(file, piece.file, piece.splits)


@dataclass(frozen=True)
class Estimate:
    """``bytes`` of all shards and ``seconds`` of one core, from ``videos`` that were tried; 0 videos: not known."""

    videos: int
    bytes: float
    seconds: float


def probe(plan: Plan, videos: str, timeout: float, most: int = 6) -> Estimate:
    """Transcode up to ``most`` videos drawn at random; those that cannot be read are passed over."""
    fs, root = open_folder(videos)
    drawn = random.Random(0).sample(plan.sources, min(most, len(plan.sources)))
    tried, read, written, seconds = 0, 0, 0, 0.0
    with Killable(transcode, timeout) as convert:
        for i, source in enumerate([*drawn[:1], *drawn]):  # the first twice: starting the process does not count
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
