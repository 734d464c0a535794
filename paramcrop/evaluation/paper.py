"""What the paper reports, to be shown beside ours.

Only a run of the paper's own scale, sizes and data may be compared with these; the table says what ours was.
"""

from __future__ import annotations

from paramcrop.config import Config

# (method, backbone, policy, epochs) -> {(dataset, protocol, metric): published value}; S3D-G and R-2D3D-18.
_FINETUNE = "paper-finetune"
_LINEAR = "paper-linear"
_RETRIEVAL = "paper-retrieval-10clip"
Key = tuple[str, str, str]
PUBLISHED: dict[tuple[str, str, str, int], dict[Key, float]] = {
    ("simclr", "s3dg", "paramcrop", 20): {  # Tables 2, 5
        ("hmdb51", _FINETUNE, "video@1"): 0.599,
        ("ucf101", _FINETUNE, "video@1"): 0.869,
        ("hmdb51", _LINEAR, "video@1"): 0.373,
        ("ucf101", _LINEAR, "video@1"): 0.593,
    },
    ("simclr", "s3dg", "none", 20): {  # Table 2, random crops R alone
        ("hmdb51", _FINETUNE, "video@1"): 0.560,
        ("ucf101", _FINETUNE, "video@1"): 0.853,
        ("hmdb51", _LINEAR, "video@1"): 0.335,
        ("ucf101", _LINEAR, "video@1"): 0.579,
    },
    ("simclr", "r2d3d-18", "paramcrop", 20): {  # Table 5
        ("hmdb51", _FINETUNE, "video@1"): 0.530,
        ("ucf101", _FINETUNE, "video@1"): 0.794,
    },
    ("moco", "s3dg", "paramcrop", 20): {
        ("hmdb51", _FINETUNE, "video@1"): 0.543,
        ("ucf101", _FINETUNE, "video@1"): 0.851,
    },
    ("moco", "r2d3d-18", "paramcrop", 20): {
        ("hmdb51", _FINETUNE, "video@1"): 0.482,
        ("ucf101", _FINETUNE, "video@1"): 0.738,
    },
    ("simclr", "s3dg", "paramcrop", 100): {  # Tables 9 to 12
        ("hmdb51", _FINETUNE, "video@1"): 0.623,
        ("ucf101", _FINETUNE, "video@1"): 0.889,
        ("hmdb51", _LINEAR, "video@1"): 0.394,
        ("ucf101", _LINEAR, "video@1"): 0.685,
        **{("hmdb51", _RETRIEVAL, f"R@{k}"): v for k, v in ((1, 0.219), (5, 0.467), (10, 0.603), (20, 0.726))},
        **{("ucf101", _RETRIEVAL, f"R@{k}"): v for k, v in ((1, 0.463), (5, 0.623), (10, 0.713), (20, 0.791))},
    },
    ("simclr", "r2d3d-18", "paramcrop", 100): {
        ("hmdb51", _FINETUNE, "video@1"): 0.537,
        ("ucf101", _FINETUNE, "video@1"): 0.828,
        ("hmdb51", _LINEAR, "video@1"): 0.397,
        ("ucf101", _LINEAR, "video@1"): 0.668,
        **{("hmdb51", _RETRIEVAL, f"R@{k}"): v for k, v in ((1, 0.219), (5, 0.469), (10, 0.590), (20, 0.715))},
        **{("ucf101", _RETRIEVAL, f"R@{k}"): v for k, v in ((1, 0.430), (5, 0.599), (10, 0.692), (20, 0.783))},
    },
}


def published(config: Config, dataset: str, protocol: str, metric: str) -> float | None:
    """The paper's value for a run of these settings, in [0, 1]; None: there is none."""
    backbone = f"r2d3d-{config.backbone.depth}" if config.backbone.name == "r2d3d" else config.backbone.name
    values = PUBLISHED.get((config.method, backbone, config.policy, config.train.epochs), {})
    return values.get((dataset, protocol, metric))
