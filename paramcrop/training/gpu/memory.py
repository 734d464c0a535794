"""A limit on the GPU memory of one of several processes that share a GPU."""

from __future__ import annotations

import torch

CONTEXT = 1.0  # GiB of a process's CUDA context and libraries, which torch's allocator does not see


def limit_memory(share: float, device: torch.device) -> float:
    """Let this process take at most ``share`` of the GPU's memory, its context included -> GiB left for tensors.

    A tensor beyond that raises torch.OutOfMemoryError here, though the GPU has room. So whoever takes too much ends
    itself, and not the others on the GPU.

    Args:
        share: in (0, 1].
    """
    card = torch.cuda.get_device_properties(device).total_memory / 2**30
    left = max(0.0, share * card - CONTEXT)
    torch.cuda.set_per_process_memory_fraction(left / card, device)
    return left


def own_card() -> float:
    """The memory of this machine's smallest GPU, GiB; 0: torch sees none."""
    count = torch.cuda.device_count()
    return min((torch.cuda.get_device_properties(i).total_memory for i in range(count)), default=0) / 2**30


def over_limit(room: float) -> str:
    """The text of an error: more than ``room`` GiB were needed."""
    return f"it must fit its part of a GPU, {room:.3g} GiB, but needs more; lower --trials-per-gpu, or leave it out"
