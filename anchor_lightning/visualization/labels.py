"""Places for the texts of points on a plane, so that they cover neither each other nor what is drawn there."""

from __future__ import annotations

import numpy as np

RADII = (0.022, 0.04, 0.065, 0.1, 0.14)  # distances from a point to its text, as shares of the plane's side
ANGLES = np.arange(0, 2 * np.pi, np.pi / 8)


def place_labels(points: np.ndarray, sizes: np.ndarray, obstacles: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(P, 2) centres of labels, each near its point, where it covers least.

    One label after the other takes the free place nearest to its point, else the one that covers fewest obstacles; it
    does not stand nearer to another point than to its own.
    All in shares of the plane's sides, from 0 to 1; P points, K obstacles.

    Args:
        points: (P, 2) what the labels stand for.
        sizes: (P, 2) widths and heights of the labels.
        obstacles: (K, 2) points that labels should not cover.
        others: (Q, 2) further points that have no label here, but might seem to.
    """
    taken = np.zeros((0, 4))
    placed = np.zeros((len(points), 2))
    for index, (point, size) in enumerate(zip(points, sizes, strict=True)):
        candidates = _around(point, size)
        corners = np.concatenate([candidates - size / 2, candidates + size / 2], axis=1)  # (C, 4) x1 y1 x2 y2
        outside = (corners < 0).any(axis=1) | (corners > 1).any(axis=1)
        inside = (obstacles > corners[:, None, :2]) & (obstacles < corners[:, None, 2:])  # (C, K, 2)
        apart = (corners[:, None, :2] >= taken[:, 2:]) | (corners[:, None, 2:] <= taken[:, :2])  # (C, T, 2)
        overlaps = ~apart.any(axis=2)
        rivals = np.concatenate([np.delete(points, index, axis=0), others])
        is_nearer = _distance(corners, rivals).min(axis=1, initial=np.inf) < _distance(corners, point[None])[:, 0]
        cost = inside.all(axis=2).sum(axis=1) + 4 * is_nearer + 20 * overlaps.sum(axis=1) + 100 * outside
        best = int(cost.argmin())  # of equal ones the first, which is the nearest
        placed[index] = candidates[best]
        taken = np.concatenate([taken, corners[best : best + 1]])
    return placed


def _distance(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(C, P) distances of boxes x1 y1 x2 y2 and points, 0 inside."""
    beyond = np.maximum(corners[:, None, :2] - points, points - corners[:, None, 2:]).clip(min=0)  # (C, P, 2)
    return np.asarray(np.hypot(beyond[..., 0], beyond[..., 1]))


def _around(point: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(C, 2) centres of a label around a point, nearest first, beginning on the right."""
    direction = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    # The nearest edge or corner of the label lies on the circle, whatever the direction.
    return np.concatenate([point + radius * direction + size / 2 * np.clip(2 * direction, -1, 1) for radius in RADII])
