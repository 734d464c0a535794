"""A 2-D map of vectors in which neighbours stay neighbours: t-SNE (van der Maaten and Hinton, 2008), exact."""

from __future__ import annotations

import numpy as np

LEAST = 8  # vectors; fewer are shown by their principal components
PERPLEXITY = 15.0  # neighbours that count for a vector
STEPS, EARLY = 400, 100  # of gradient descent; the early ones with stronger attraction
ATTRACTION, RATE = 12.0, 50.0  # of the early steps; least learning rate, which grows with n as in later work
TRIES = 50  # bisections of a vector's width


def plane(vectors: np.ndarray) -> np.ndarray:
    """(n, D) -> float64 (n, 2) in [-1, 1]; equal vectors give an equal map.

    Cosine distances count. Time and memory grow with n².
    """
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    x = (vectors / lengths).astype(np.float64)
    first = principal(x)
    if len(x) < LEAST:
        return scaled(first)
    return scaled(descend(affinities(x), 1e-2 * scaled(first)))


def principal(x: np.ndarray) -> np.ndarray:
    """The first two principal components, each with a fixed sign: (n, 2)."""
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    found = np.zeros((len(x), 2))
    found[:, : min(2, len(s))] = (u * s)[:, :2]
    sign = np.sign(found[np.abs(found).argmax(0), [0, 1]])
    return found * np.where(sign == 0, 1, sign)


def affinities(x: np.ndarray) -> np.ndarray:
    """The symmetric probabilities p of all pairs (n, n), each vector's width chosen for ``PERPLEXITY``."""
    n = len(x)
    distance = np.maximum(2 - 2 * x @ x.T, 0)  # squared, of unit vectors
    np.fill_diagonal(distance, np.inf)
    wanted = np.log(min(PERPLEXITY, (n - 1) / 3))
    away = distance - distance.min(1, keepdims=True)
    np.fill_diagonal(away, 0)
    low, high, beta = np.zeros((n, 1)), np.full((n, 1), np.inf), np.ones((n, 1))
    for _ in range(TRIES):
        weight = np.exp(-away * beta)
        np.fill_diagonal(weight, 0)
        total = weight.sum(1, keepdims=True)
        mean = (weight * away).sum(1, keepdims=True) / total
        wide = np.log(total) + beta * mean > wanted  # entropy
        low, high = np.where(wide, beta, low), np.where(wide, high, beta)
        beta = np.where(np.isinf(high), 2 * beta, (low + high) / 2)
    p = weight / total
    both: np.ndarray = np.maximum((p + p.T) / (2 * n), 1e-12)
    return both


def descend(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Move y (n, 2) so that its pairs are as probable as p under Student's t."""
    n, p, y = len(y), p.astype(np.float32), y.astype(np.float32)
    rate, step, gain = min(n, max(RATE, n / ATTRACTION / 4)), np.zeros_like(y), np.ones_like(y)
    for i in range(STEPS):
        length = (y**2).sum(1)
        near = y @ (-2 * y.T)
        near += length[:, None] + 1
        near += length[None]
        np.reciprocal(np.maximum(near, 1, out=near), out=near)
        np.fill_diagonal(near, 0)
        force = ((ATTRACTION if i < EARLY else 1) * p - near / near.sum()) * near
        gradient = 4 * (force.sum(1, keepdims=True) * y - force @ y)
        gain = np.maximum(np.where(np.sign(gradient) == np.sign(step), 0.8 * gain, gain + 0.2), 0.01)
        step = (0.5 if i < EARLY else 0.8) * step - rate * gain * gradient
        y = y + step
        y = y - y.mean(0)
    moved: np.ndarray = y.astype(np.float64)
    return moved


def scaled(y: np.ndarray) -> np.ndarray:
    """Centred, in [-1, 1], with one scale for both axes."""
    centred = y - (y.max(0) + y.min(0)) / 2
    largest = np.abs(centred).max()
    result: np.ndarray = centred / largest if largest > 0 else centred
    return result
