"""Cosine search: by faiss or hnswlib if an index was built with it, by a matrix product otherwise."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from paramcrop.errors import ConfigError
from paramcrop.storage.files import atomic_write

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # (m, D), k -> cosines (m, k), rows (m, k)
KINDS = ("faiss", "hnswlib")  # packages, the first that is installed is used
LINKS, WIDTH = 32, 200  # of the graphs of both: neighbours that a vector is linked with, candidates kept on the way
BLOCK = 2**24  # products that the plain search holds at a time


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, D) -> float32 (n, D), each of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return scaled


def plain_search(vectors: np.ndarray) -> Search:
    """Search all vectors (n, D): exact."""
    known = unit(vectors)

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        step = max(1, BLOCK // max(1, len(known)))
        parts = [_best(unit(queries[i : i + step]) @ known.T, k) for i in range(0, len(queries), step)]
        cosines, rows = (np.concatenate(part) for part in zip(*parts, strict=True))
        return cosines, rows

    return search


def _best(cosines: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(cosines, rows, 1), rows


def installed() -> str:
    """The package that an index is built with; empty: there is none."""
    return next((kind for kind in KINDS if find_spec(kind) is not None), "")


def index_file(features: Path, kind: str) -> Path:
    return features.with_suffix(f".{kind}")


def write_index(vectors: np.ndarray, features: Path, kind: str) -> Path:
    """Build an index of the vectors (n, D) of the file ``features`` beside it -> its file."""
    file = index_file(features, kind)
    with atomic_write(file) as part:
        if kind == "faiss":
            import faiss

            graph = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = WIDTH
            graph.add(unit(vectors))
            faiss.write_index(graph, str(part))
        else:
            import hnswlib

            space = hnswlib.Index("cosine", vectors.shape[1])
            space.init_index(len(vectors), ef_construction=WIDTH, M=LINKS, random_seed=0)
            space.add_items(unit(vectors), num_threads=1)  # with one thread, equal vectors give equal bytes
            space.save_index(str(part))
    return file


def remove_indexes(features: Path) -> None:
    """Remove the indexes of a file that is written anew."""
    for kind in KINDS:
        index_file(features, kind).unlink(missing_ok=True)


def open_search(vectors: np.ndarray, features: Path) -> Search:
    """The search of a file's index if it has one, else of its vectors (n, D).

    Raises:
        ConfigError: the index cannot be read.
    """
    kind = next((kind for kind in KINDS if index_file(features, kind).exists()), "")
    if not kind:
        return plain_search(vectors)
    try:
        return _opened(kind, index_file(features, kind), vectors.shape[1])
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise ConfigError(
            f"{index_file(features, kind)} must be an index that {kind} can read, but: {reason}; without the file, "
            "the search is plain"
        ) from None


def _opened(kind: str, file: Path, size: int) -> Search:
    if kind == "faiss":
        import faiss

        graph: Any = faiss.read_index(str(file))
        graph.hnsw.efSearch = WIDTH
        return lambda queries, k: tuple(graph.search(unit(queries), k))
    import hnswlib

    space: Any = hnswlib.Index("cosine", size)
    space.load_index(str(file))

    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        space.set_ef(max(WIDTH, k))
        rows, distances = space.knn_query(unit(queries), k)
        return 1 - distances, rows

    return search
