"""Run a sweep with the arguments of sweep.py, then list, from the same driver, what is still alive in the cluster."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import ray
from ray.util.state import list_actors, list_placement_groups

from paramcrop.errors import ParamCropError
from ray_jobs.sweep.command import main


def alive() -> dict[str, list[str]]:
    """Live actors and placement groups, without those that Ray Data keeps for the cluster (names starting with "_")."""
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address  # another Ray may run on this machine
    living = [str(actor.class_name) for actor in list_actors() if actor.state != "DEAD"]
    actors = [name for name in living if not name.startswith("_")]
    groups = [str(group.placement_group_id) for group in list_placement_groups() if group.state != "REMOVED"]
    return {"actors": actors, "groups": groups}


if __name__ == "__main__":
    code = 0
    try:
        main(sys.argv[1:])
    except ParamCropError as error:
        print(f"error: {error}")
        code = error.exit_code
    end = time.monotonic() + 30
    while ray.is_initialized() and any(alive().values()) and time.monotonic() < end:
        time.sleep(0.5)  # actors end some time after they go out of scope
    print(f"alive: {json.dumps(alive() if ray.is_initialized() else {})}")
    sys.exit(code)
