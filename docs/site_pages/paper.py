"""The paper's tables and figures: what their rows are in settings, and what they cost."""

from __future__ import annotations

from paramcrop.paper.cost import WINDOW_SECONDS, cost_of
from paramcrop.paper.spaces import paper_space, preset_of
from paramcrop.paper.tables import Entry, Paper
from paramcrop.settings.explain import show
from paramcrop.sweeps.space import FOLDER, read_space, space_at
from site_pages.markdown import table


def tables_page(paper: Paper) -> str:
    """What each row is in settings, and the printed numbers."""
    listed = [[f"[`{name}`](#{name})", _question(entry)] for name, entry in paper.entries.items()]
    text = f"""# Tables and figures to spaces

`paramcrop sweep --space NAME` fills the table or figure NAME, `--space paper` all of them. The rows below are the
paper's own, with the numbers that it prints; rows that it cites from other papers are left out.

{table(["`--space`", "Question"], listed)}"""
    for name, entry in paper.entries.items():
        notes = "".join(f"\n- {note[0].upper()}{note[1:]}." for note in entry.notes)
        text += f"\n## {name}\n\n{_question(entry)}\n\n{_rows(paper, entry)}{notes}\n"
    return text


def _question(entry: Entry) -> str:
    return entry.question or read_space(FOLDER / f"{entry.space}.yaml").question


def _rows(paper: Paper, entry: Entry) -> str:
    if entry.space:
        return f"The rows are those of the shipped space `{entry.space}`.\n"
    if entry.params:
        return "".join(f"Swept: `{key}` over `{show(values)}`.\n" for key, values in entry.params.items())
    columns = list(paper.columns_of(entry))
    rows = [
        [row.label, _settings(paper, row.settings), *(f"{value:.1f}" for value in row.paper)]
        for row in entry.rows
        if row.settings is not None
    ]
    return table(["Row", "Settings", *columns], rows)


def _settings(paper: Paper, names: tuple[str, ...]) -> str:
    return "<br>".join(f"`{key}={show(value)}`" for key, value in paper.merged(names).items())


def cost_page(paper: Paper) -> str:
    """What each table costs at the paper's scale."""
    head = ["`--space`", "runs", "pretraining, GPU-h", "evaluation, GPU-h", "decoding, core-h", "days on 8 GPUs"]
    return f"""# What the paper costs

Hours of one H200 at the paper's scale, with three seeds and three splits, computed in `paramcrop/paper/cost.py`:

- FLOP = 2 x multiply-accumulates, times three with a backward pass. S3D-G has 4.475 G multiply-accumulates for a view
  of 16 x 112 x 112 and 35.96 G for a clip of 32 x 224 x 224; R-2D3D-18 has 6.86 G and 54.1 G.
- Rates in training: 78.6 TFLOP/s for S3D-G, a whole step at 2,928 views/s, and 142.3 TFLOP/s for R-2D3D-18, 3,457
  views/s from the times of its step's parts. Both were [measured](gpu.md) in bfloat16 with ready tensors of
  16 x 112 x 112.
- Rates of a forward pass alone: 47.6 TFLOP/s for S3D-G and 200.2 for R-2D3D-18, 5,321 and 14,591 clips/s. Clips of
  32 x 224 x 224 are taken to have the same rates.
- Decoding a window of 64 frames takes {1000 * WINDOW_SECONDS:.0f} ms of a core, and a video has two windows.

So a 20-epoch run of S3D-G on 240,000 videos is 9.6 million views / 2,928 = 0.9 GPU-hours. To keep 8 GPUs busy, decoding
takes {8 * 2928 * WINDOW_SECONDS:.0f} cores with S3D-G and {8 * 3457 * WINDOW_SECONDS:.0f} with R-2D3D-18.

{table(head, cost_rows(paper))}"""


def cost_rows(paper: Paper) -> list[list[str]]:
    """A row for each table or figure, then for all of them together, with three seeds and with one."""
    scale = {n: space_at(paper_space(paper, n), preset_of(paper, n, paper.preset)) for n in paper.entries}
    asked = {f"`{name}`": [space] for name, space in scale.items()} | {"all, shared runs once": [*scale.values()]}
    asked["all, one seed"] = [space.model_copy(update={"seeds": (0,)}) for space in scale.values()]
    rows = []
    for name, spaces in asked.items():
        c = cost_of(spaces)
        hours = [f"{c.pretraining:.0f}", f"{c.evaluation:.0f}", f"{c.decoding:.0f}"]
        rows.append([name, str(c.runs), *hours, f"{(c.pretraining + c.evaluation) / 192:.1f}"])
    return rows
