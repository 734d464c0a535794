"""Answer a question with a sweep on Ray: `python ray_jobs/sweep.py --help`.

The command itself is in the package sweep/ next to this file.
"""

from paramcrop.cli import run

if __name__ == "__main__":
    run("sweep")
