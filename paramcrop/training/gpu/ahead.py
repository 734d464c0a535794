"""Copy each batch to a GPU while it computes the step before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch

from paramcrop.data.batch import MOVED, Batch


class Sent(NamedTuple):
    batch: Batch
    arrived: torch.cuda.Event


def ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Every batch on ``device``, in order.

    For a GPU, the next batch is taken before the current one is yielded, and a thread pins and copies it on a stream of
    its own. So ``batches`` must end with the last batch that is needed. For a CPU, no batch is taken early.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    stream, coming = torch.cuda.Stream(device), list[Future[Sent]]()
    with ThreadPoolExecutor(1) as sender:
        for batch in batches:
            coming.append(sender.submit(send, batch, device, stream))
            if len(coming) > 1:
                yield receive(coming.pop(0).result())
        for sent in coming:
            yield receive(sent.result())


def send(batch: Batch, device: torch.device, stream: torch.cuda.Stream) -> Sent:
    """Start the copy. Torch keeps the pinned memory and uses it again."""
    pinned = {name: getattr(batch, name).pin_memory() for name in MOVED}
    with torch.cuda.device(device), torch.cuda.stream(stream):
        moved = batch._replace(**pinned).to(device)
        return Sent(moved, stream.record_event())


def receive(sent: Sent) -> Batch:
    """The batch, on which the current stream waits if it has not arrived; the CPU does not wait."""
    current = torch.cuda.current_stream(sent.batch.video.device)
    current.wait_event(sent.arrived)
    for name in MOVED:
        getattr(sent.batch, name).record_stream(current)
    return sent.batch
