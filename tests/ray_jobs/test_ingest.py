"""Ray Data against the plain reader: the same samples in the same order, dealt to the workers in turn."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from ray.data._internal.execution import streaming_executor_state
from ray.data._internal.execution.metadata_fetcher import InlineMetadataFetcher

from paramcrop.data.clips import ClipSpec, with_planes
from paramcrop.data.manifest import Manifest
from paramcrop.data.samples import TrainingSet, epoch_batches
from ray_jobs.engine import ingest, ray_private
from ray_jobs.engine.ingest import Decoding, execution_options, rows_per_block, training_samples

pytestmark = pytest.mark.ray

SPEC = with_planes(ClipSpec(frames=8, size=32), 32)
GLOBAL, EPOCHS, SEED, WINDOW = 12, 3, 5, 2


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    ray.init(address="local", num_cpus=2, object_store_memory=300 * 2**20, include_dashboard=False, log_to_driver=False)
    yield
    for thread in threading.enumerate():
        if thread.name == "iter_threaded":  # Ray Data's; one that asks Ray after its shutdown ends the process
            thread.join(10)
    ray.shutdown()
    del os.environ["RAY_AUTH_MODE"]


def dealt(folder: str, manifest: Manifest, workers: int, timeout: float = 60) -> list[list[dict[str, Any]]]:
    """The batches that each of ``workers`` gets, over all epochs."""
    batch = GLOBAL // workers
    block_rows = rows_per_block(batch, SPEC)
    decoding = Decoding(block_rows, timeout, decoders=workers)
    dataset = training_samples(TrainingSet(folder, manifest, SEED, GLOBAL, WINDOW), SPEC, range(EPOCHS), decoding)
    dataset.context.execution_options = execution_options(2)
    splits = dataset.streaming_split(workers, equal=True)
    got: list[list[dict[str, Any]]] = [[] for _ in splits]

    def take(i: int) -> None:
        for columns in splits[i].iter_batches(batch_size=batch, batch_format="numpy"):
            assert isinstance(columns, dict)
            got[i].append(columns)

    threads = [threading.Thread(target=take, args=(i,)) for i in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return got


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("workers", [1, 2])
def test_global_batches_equal_the_plain_readers(shards: tuple[str, Manifest], workers: int) -> None:
    folder, manifest = shards
    got = dealt(folder, manifest, workers)
    expected = [b for e in range(EPOCHS) for b in epoch_batches(folder, manifest, SPEC, SEED, e, GLOBAL, WINDOW)]
    assert [len(batches) for batches in got] == [len(expected)] * workers
    for step, plain in enumerate(expected):
        parts = [batches[step] for batches in got]
        order = np.argsort(np.concatenate([p["position"] for p in parts]))
        for name, column in plain.items():
            together = np.concatenate([p[name] for p in parts])[order]
            np.testing.assert_array_equal(together, column, err_msg=f"step {step}: {name}")


@pytest.mark.usefixtures("local_ray")
def test_videos_that_take_too_long_keep_their_slots(shards: tuple[str, Manifest]) -> None:
    folder, manifest = shards
    (batches,) = dealt(folder, manifest, workers=1, timeout=1e-6)
    expected = [b for e in range(EPOCHS) for b in epoch_batches(folder, manifest, SPEC, SEED, e, GLOBAL, WINDOW)]
    assert [b["id"].tolist() for b in batches] == [b["id"].tolist() for b in expected]
    assert {error for b in batches for error in b["error"]} == {"reading took longer than 1e-06 s"}


@pytest.mark.usefixtures("local_ray")
def test_a_block_arrives_in_one_piece(shards: tuple[str, Manifest]) -> None:
    """The training process would have to copy two pieces into one."""
    dataset = training_samples(TrainingSet(*shards, SEED, GLOBAL, WINDOW), SPEC, range(2), Decoding(3, 60))
    dataset.context.execution_options = execution_options(2)
    blocks: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    pieces = [(len(block), block.column("video").num_chunks) for block in blocks]
    assert pieces == [(3, 1)] * (2 * 48 // 3)


@pytest.mark.usefixtures("local_ray")
def test_a_segment_is_divided_among_tasks(shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one task per segment, other cores would decode later segments, which wait in memory for their turn."""
    folder, manifest = shards
    all_groups = 1000  # window in row groups, so that an epoch is one segment
    monkeypatch.setattr(ingest, "TASK_ROWS", 13)
    dataset = training_samples(TrainingSet(folder, manifest, SEED, GLOBAL, all_groups), SPEC, range(1), Decoding(3, 60))
    dataset.context.execution_options = execution_options(2)
    rows = sum(len(columns["id"]) for columns in dataset.iter_batches(batch_size=3, batch_format="numpy"))
    steps = re.findall(r"(MapBatches\S+|Streaming\S+): (\d+) tasks executed, (\d+) blocks", dataset.stats())
    rows_of_task = 3 * ingest.task_blocks(3, SPEC)
    assert rows == 48
    slicing = f"StreamingRepartition[num_rows_per_block={rows_of_task},strict=True]"
    assert [step for step, *_ in steps] == ["MapBatches(_read)", slicing, "MapBatches(_decode)"]
    (_, read, _), (*_, sliced), decoded = steps
    assert read == "1" and int(sliced) == 48 // rows_of_task and decoded[1:] == (sliced, f"{48 // 3}")


@pytest.mark.usefixtures("local_ray")
def test_the_output_of_a_task_is_taken_soon(shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """Times vary too much to test. So test that Ray Data's loop has our wait and fetches metadata without a thread."""
    monkeypatch.setattr(streaming_executor_state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", 0.1)
    ended, done = list[Any](), InlineMetadataFetcher.in_data_ready_done

    def noted(fetcher: InlineMetadataFetcher, task: Any) -> None:
        ended.append(task)
        done(fetcher, task)

    monkeypatch.setattr(InlineMetadataFetcher, "in_data_ready_done", noted)
    dataset = training_samples(TrainingSet(*shards, SEED, GLOBAL, WINDOW), SPEC, range(1), Decoding(3, 60))
    dataset.context.execution_options = execution_options(2)
    assert sum(1 for _ in dataset.iter_batches(batch_size=3, batch_format="numpy")) == 48 // 3
    assert streaming_executor_state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S == ray_private.WAIT and ended


@pytest.mark.usefixtures("local_ray")
def test_the_statistics_of_blocks_do_not_accumulate(
    shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operator keeps the last few, plus those that come after the loop's last step."""
    monkeypatch.setattr(ray_private, "KEPT", 2)
    dataset = training_samples(TrainingSet(*shards, SEED, GLOBAL, WINDOW), SPEC, range(10), Decoding(3, 60))
    dataset.context.execution_options = execution_options(2)
    assert sum(1 for _ in dataset.iter_batches(batch_size=3, batch_format="numpy")) == 10 * 48 // 3
    places, *kept = [int(blocks) for blocks in re.findall(r"tasks executed, (\d+) blocks", dataset.stats())]
    assert places >= 10 and len(kept) == 3 and max(kept) < 10, kept  # of 160 that were decoded


@pytest.mark.usefixtures("local_ray")
def test_every_cpu_decodes_while_there_is_more_to_read(
    shards: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray Data reserves CPUs for each step, whether it uses them or not."""
    folder, manifest = shards
    decode, log = ingest._decode, str(tmp_path)

    def watched(table: pa.Table, **given: Any) -> Iterator[dict[str, Any]]:
        start = time.time()
        time.sleep(0.3)
        yield from decode(table, **given)
        Path(log, f"{time.time_ns()}").write_text(f"{start} {time.time()}")

    monkeypatch.setattr(ingest, "_decode", watched)
    monkeypatch.setattr(ingest, "TASK_ROWS", 3)
    dataset = training_samples(TrainingSet(folder, manifest, SEED, GLOBAL, 1), SPEC, range(2), Decoding(3, 60))
    dataset.context.execution_options = execution_options(2)
    for _ in dataset.iter_batches(batch_size=3, batch_format="numpy"):
        pass
    spans = [tuple(map(float, file.read_text().split())) for file in tmp_path.iterdir()]
    later = [(a, b) for a, b in spans if a > min(b for _, b in spans)]  # processes have started by then
    beside = [a for a, _ in later if any(c < a < d for c, d in spans)]
    assert len(beside) > len(later) / 2, sorted(later)


@pytest.mark.usefixtures("local_ray")
def test_waiting_for_the_trainer_does_not_use_a_core(shards: tuple[str, Manifest]) -> None:
    """Ray Data's loop runs in a thread of this process, and spins when its memory is full."""
    dataset = training_samples(TrainingSet(*shards, SEED, GLOBAL, WINDOW), SPEC, range(200), Decoding(12, 60))
    options = execution_options(2)
    options.resource_limits = options.resource_limits.copy(object_store_memory=2**20)
    dataset.context.execution_options = options
    batches = iter(dataset.iter_batches(batch_size=12, batch_format="numpy"))
    for _ in range(20):
        next(batches)
    time.sleep(2)  # until the buffer of decoded blocks is full
    start = time.process_time()
    time.sleep(2)
    assert time.process_time() - start < 0.6
