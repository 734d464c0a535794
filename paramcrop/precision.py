"""In which type networks compute."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def computing_in(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to ``dtype`` where it is not float32, which needs none: then any device will do, "meta" too."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
