"""Pretrain with ParamCrop on Ray: `python ray_jobs/pretrain.py --help`.

The command itself is in the package pretrain/ next to this file.
"""

from paramcrop.cli import run

if __name__ == "__main__":
    run("pretrain")
