"""Fewer points that draw the same line."""

import numpy as np

__all__ = ['min_max', 'split_points', 'time_bounds', 'time_means']


def min_max(values: np.ndarray, buckets: int) -> np.ndarray:
    """Choose points so that every bucket keeps its least and its greatest value.

    Buckets are equal runs of points. A spike stays, whatever its width; an average
    would hide it, and every k-th point would miss it.

    Args:
        values: Of the line; NaN is a gap.
        buckets: At most this many, each of which keeps two points at most.

    Returns:
        Indices in rising order: those of the extremes of each bucket, the first point
        and the last, and one of each bucket that is all gap. All of them, if there
        are no more than two a bucket.

    Raises:
        ValueError: If ``buckets`` is below 1.
    """
    if buckets < 1:
        raise ValueError(f'buckets must be at least 1, got {buckets}')
    number = len(values)
    if number <= 2 * buckets:
        return np.arange(number)
    width = -(-number // buckets)
    padded = np.full(width * -(-number // width), np.nan)
    padded[:number] = values
    rows = padded.reshape(-1, width)
    start = np.arange(len(rows)) * width
    gap = np.isnan(rows)
    # Of a bucket that is all gap both are its first point.
    least = start + np.where(gap, np.inf, rows).argmin(1)
    greatest = start + np.where(gap, -np.inf, rows).argmax(1)
    return np.unique(np.concatenate([[0], least, greatest, [number - 1]]))


def split_points(points: np.ndarray, columns: int) -> np.ndarray:
    """Edges of time columns, each of which holds as many points.

    Args:
        points: Rising times.
        columns: At most this many.

    Returns:
        One edge more than columns; the first is below the first point.
    """
    columns = min(columns, len(points))
    ends = [part[-1] for part in np.array_split(points, columns)]
    return np.array([min(0, points[0] - 1), *ends], float)


def time_means(times: np.ndarray, values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of the values in each time column.

    Args:
        times: One per value, rising.
        values: NaN is left out.
        edges: Of the columns, as :func:`split_points` gives them; a column holds what
            is above its lower edge up to its upper one.

    Returns:
        One mean per column; NaN where there is no value.
    """
    column, kept = _columns(times, values, edges)
    number = np.bincount(column, minlength=len(edges) - 1)
    total = np.bincount(column, kept, minlength=len(edges) - 1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def time_bounds(
    times: np.ndarray, values: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest value in each time column.

    Args:
        times: One per value, rising.
        values: NaN is left out.
        edges: As for :func:`time_means`.

    Returns:
        Two arrays, one entry per column; NaN where there is no value.
    """
    column, kept = _columns(times, values, edges)
    low = np.full(len(edges) - 1, np.inf)
    high = np.full(len(edges) - 1, -np.inf)
    np.minimum.at(low, column, kept)
    np.maximum.at(high, column, kept)
    empty = low > high
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def _columns(times, values, edges) -> tuple[np.ndarray, np.ndarray]:
    """Column of each finite value inside the edges, and the value."""
    known = np.isfinite(values)
    column = np.searchsorted(edges, times[known]) - 1
    inside = (column >= 0) & (column < len(edges) - 1)
    return column[inside], values[known][inside]
