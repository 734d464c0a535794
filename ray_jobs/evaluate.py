"""Evaluate pretrained runs on Ray: `python ray_jobs/evaluate.py --help`.

The command itself is in the package evaluate/ next to this file.
"""

from paramcrop.cli import run

if __name__ == "__main__":
    run("evaluate")
