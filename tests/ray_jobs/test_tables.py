"""Tables keep the names of their rows at 80 columns, the width of logs and pipes."""

from __future__ import annotations

import io

from rich.console import Console

from ray_jobs.terminal import make_table

VALUE = "67.2 ± 3.2 (65.1, 69.3) [4.1] (paper 59.9)"  # as `evaluate` prints two seeds


def test_rows_keep_their_names_in_80_columns() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80, soft_wrap=True)
    heads = ["", "top-1", "top-5", "n of N"]
    rows = [[name, VALUE, VALUE, "128 of 128 (64 videos)"] for name in ("lower=0.2", "random-init")]
    console.print(make_table("synthetic/heads [x]", [heads, *rows]), soft_wrap=False)
    shown = text.getvalue()
    assert "lower=0.2" in shown and "random-init" in shown and "synthetic/heads [x]" in shown
    assert max(map(len, shown.splitlines())) <= 80 and "…" not in shown
    words = shown.replace("│", " ").split()
    assert words.count("59.9)") == 4 and words.count("videos)") == 2  # nothing is cut off


def test_a_long_name_wraps() -> None:
    text = io.StringIO()
    console = Console(file=text, width=40, soft_wrap=True)
    console.print(make_table("t", [["", "a"], ["x" * 90, VALUE]]), soft_wrap=False)
    assert text.getvalue().count("x") == 90


def test_a_title_may_be_longer_than_its_table() -> None:
    text, title = io.StringIO(), "synthetic/frozen-linear-eval[frames=8,size=32,stride=3]"
    console = Console(file=text, width=80, soft_wrap=True)
    console.print(make_table(title, [["", "a"], ["x", "1"]]), soft_wrap=False)
    assert text.getvalue().splitlines()[0].strip() == title
