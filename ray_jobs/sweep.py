"""Answer a question by a sweep, on Ray: `python ray_jobs/sweep.py --help`.

The command itself is the package sweep/ beside this file.
"""

from paramcrop.cli import run

if __name__ == "__main__":
    run("sweep")
