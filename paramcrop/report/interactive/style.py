"""The style of the charts, and how they get into a page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
ACROSS = 3  # panels side by side
LONGEST = 44  # characters in a line of a title


def script() -> str:
    """Plotly's own JavaScript, written into a page once, so that the file stands alone."""
    return str(get_plotlyjs())


def panels(names: Sequence[str], columns: int = ACROSS, **options: Any) -> Any:
    """A figure with a panel for each name, ``columns`` side by side."""
    across = min(columns, len(names))
    down = -(-len(names) // across)
    room = {"horizontal_spacing": 0.09, "vertical_spacing": 0.3 / down}
    return make_subplots(rows=down, cols=across, subplot_titles=[title_of(name) for name in names], **room, **options)


def title_of(name: str) -> str:
    """The name in lines of at most ``LONGEST`` characters; the numbers of a protocol may be separated."""
    lines = [""]
    for part in name.replace(",", ", ").split():
        room = LONGEST - len(lines[-1]) - 1 if lines[-1] else math.inf
        lines = [*lines[:-1], f"{lines[-1]} {part}".strip()] if len(part) <= room else [*lines, part]
    return "<br>".join(lines)


def as_json(figure: Any) -> str:
    """Data and layout in the style of the page, for ``Plotly.newPlot``; nothing in it can end a script element."""
    figure.update_layout(
        template="plotly_white",
        colorway=COLORS,
        margin={"l": 60, "r": 20, "t": 60, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 12, "color": "#1d2129"},
        legend={"orientation": "h", "y": -0.22},
    )
    figure.update_annotations(font_size=12)
    found = json.loads(figure.to_json())
    return json.dumps({"data": found["data"], "layout": found["layout"]}).replace("<", "\\u003c")
