"""Embed a folder of videos on Ray: `python ray_jobs/embed.py --help`.

The command itself is in the package embed/ next to this file.
"""

from paramcrop.cli import run

if __name__ == "__main__":
    run("embed")
