"""Ray's own validation of a launch file, which needs no cloud."""

from __future__ import annotations

import copy
from typing import Any


def ray_problems(values: dict[str, Any]) -> list[str]:
    """What `ray up` would refuse before it asks the cloud; one line, or none."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(values)))
    except Exception as error:  # jsonschema's, ValueError and others: Ray does not say which
        text = str(getattr(error, "message", "") or error).strip().splitlines()
        return [f"`ray up` must take the file, but says: {text[0] if text else type(error).__name__}"]
    return []
