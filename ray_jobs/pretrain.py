"""Pretrain with ParamCrop on Ray: `python ray_jobs/pretrain.py --help`.

The command itself is the package pretrain/ beside this file.
"""

from paramcrop.cli import run

if __name__ == "__main__":
    run("pretrain")
