"""Videos and their lists -> Parquet shards and a manifest, on Ray: `python ray_jobs/prepare.py --help`.

The command itself is in the package prepare/ next to this file.
"""

from paramcrop.cli import run

if __name__ == "__main__":
    run("prepare")
