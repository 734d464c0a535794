"""Groups of videos that come from one source, and held-out splits that never divide a group.

Clips of one source video are near-duplicates. A split that divides them measures how well a clip finds its neighbour.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

UCF101 = re.compile(r"(v_.+_g\d+)_c\d+", re.IGNORECASE)  # v_Class_gNN_cNN: clip NN of source NN
# source_class_visible_camera_people_direction_quality_number, such as "..._u_nm_np1_ba_goo_0"
HMDB51 = re.compile(r"(.+)_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+", re.IGNORECASE)
UT_INTERACTION = re.compile(r"\d+_(\d+)_\d")  # video_sequence_class, below the folder of its set
NAMES = {"ucf101": UCF101, "hmdb51": HMDB51, "ut-interaction": UT_INTERACTION}


def group_of(dataset: str, video: str) -> str:
    """The source of a video according to its id; the id itself if the dataset's names do not contain a source.

    >>> group_of("ucf101", "Archery/v_Archery_g03_c02.avi")
    'Archery/v_Archery_g03'
    """
    path, pattern = PurePosixPath(video), NAMES.get(dataset)
    match = pattern.fullmatch(path.stem) if pattern else None
    return str(path.with_name(match[1])) if match else video


def merge_duplicates(groups: Sequence[str], sources: Sequence[str]) -> list[str]:
    """The groups after merging those that share a video with equal ``sources`` (sha256; empty: unknown)."""
    parent: dict[str, str] = {}

    def root(group: str) -> str:
        while (above := parent.get(group, group)) != group:
            group = above
        return group

    first: dict[str, str] = {}
    for group, source in zip(groups, sources, strict=True):
        if source:
            parent[root(group)] = root(first.setdefault(source, group))
    return [root(group) for group in groups]


def hold_out(groups: Sequence[str], labels: Sequence[int], share: float, seed: int) -> list[bool]:
    """Which videos to hold out: ``share`` of each class, rounded up to whole groups.

    A group is never divided, and at least one group of each class remains. A class of one group holds out nothing.
    The order of the groups is that of a hash of (seed, group).
    """
    members: dict[str, Counter[int]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        members[group][label] += 1
    total, held, remaining = Counter(labels), Counter[int](), Counter(c for own in members.values() for c in own)
    most = {label: max(math.ceil(share * n), n / 2) for label, n in total.items()}
    chosen = set()
    for group in sorted(members, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest()):
        own = members[group]
        needed = any(held[label] / total[label] < share for label in own)
        if needed and all(remaining[label] > 1 and held[label] + n <= most[label] for label, n in own.items()):
            chosen.add(group)
            held.update(own)
            remaining.subtract(own.keys())
    return [group in chosen for group in groups]
