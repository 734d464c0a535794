"""What must hold of a step's batch, and of all ranks together, for a training to go on."""

from __future__ import annotations

from paramcrop import dist
from paramcrop.data.batch import Batch
from paramcrop.errors import DecodeFailuresError, StorageError
from paramcrop.training.recorder import Recorder, Row


def rows_of(batch: Batch) -> list[Row]:
    return [Row(*row) for row in zip(batch.position.tolist(), batch.id, batch.error, batch.substitute, strict=True)]


def check_order(batch: Batch, epoch: int, step: int, global_batch: int) -> None:
    """Every row must belong to this epoch and global step: our own promise, whatever the loader did."""
    if not (bool((batch.epoch == epoch).all()) and bool((batch.position // global_batch == step).all())):
        found = batch.epoch.unique().tolist(), (batch.position // global_batch).unique().tolist()
        raise AssertionError(f"rows must be of epoch {epoch}, step {step}, but are of epochs and steps {found}")


def check_together(seen: list[list[Row]], recorder: Recorder, max_failed: float, rows: int) -> None:
    """What any rank cannot go on with, raised on every rank; an exchange.

    Args:
        seen: this rank's rows of the epoch so far. rows: of a whole epoch, over all ranks.

    Raises:
        DecodeFailuresError, StorageError: see ``pretrain``.
    """
    failed = [f"{row.id} ({row.error})" for step in seen for row in step if row.error]
    ranks = dist.gather_objects((failed, recorder.trouble))
    trouble = next((text for _, text in ranks if text), "")
    if trouble:
        raise StorageError(f"{trouble}; mend that and run the same command: it goes on from the last checkpoint")
    check_failures([text for texts, _ in ranks for text in texts], max_failed, rows)


def check_failures(failed: list[str], max_failed: float, rows: int) -> None:
    """Raises:
    DecodeFailuresError: of an epoch's ``rows``, more than ``max_failed`` have been filled by substitutes so far.
    """
    if len(failed) > max_failed * rows:
        raise DecodeFailuresError(
            f"at most data.max_failed={max_failed} of {rows} samples may fail to decode, but {len(failed)} did: "
            + "; ".join(failed[:5])
        )
