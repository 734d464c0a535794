"""What a pretrained run is worth, on Ray: `python ray_jobs/evaluate.py --help`.

The command itself is the package evaluate/ beside this file.
"""

from paramcrop.cli import run

if __name__ == "__main__":
    run("evaluate")
