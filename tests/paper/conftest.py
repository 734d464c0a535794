"""The paper's entries."""

from __future__ import annotations

import pytest

from paramcrop.paper.tables import Paper, read_paper


@pytest.fixture(scope="module")
def paper() -> Paper:
    found = read_paper()
    assert found is not None
    return found
