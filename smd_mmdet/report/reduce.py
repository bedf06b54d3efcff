"""Fewer points that draw the same line."""

import numpy as np

__all__ = ['min_max', 'split_points', 'time_bounds', 'time_means']


def min_max(values: np.ndarray, buckets: int) -> np.ndarray:
    """Choose points so that every bucket keeps its least and its greatest value.

    Buckets are equal runs of points. A spike stays, whatever its width; an average
    would hide it, and every k-th point would miss it.

    Args:
        values: Values of the line; NaN is a gap.
        buckets: Most buckets to make, each of which keeps two points at most.

    Returns:
        Indices of the points to keep, rising: the extremes of each bucket, the first
        point and the last, and one of each bucket that is all gap. If there are no
        more than two points a bucket, all of them are kept.

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
    # In a bucket that is all gap, both are its first point.
    least = start + np.where(gap, np.inf, rows).argmin(1)
    greatest = start + np.where(gap, -np.inf, rows).argmax(1)
    return np.unique(np.concatenate([[0], least, greatest, [number - 1]]))


def split_points(points: np.ndarray, columns: int) -> np.ndarray:
    """Edges of time columns that hold equally many points, or one more or less.

    Args:
        points: Times, rising.
        columns: Most columns to make.

    Returns:
        The edges, one more than columns; the first is below the first point.
    """
    columns = min(columns, len(points))
    ends = [part[-1] for part in np.array_split(points, columns)]
    return np.array([min(0, points[0] - 1), *ends], float)


def time_means(times: np.ndarray, values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Mean of the values in each time column.

    Args:
        times: Time of each value, rising.
        values: The values; those that are NaN are left out.
        edges: Edges of the columns, as :func:`split_points` gives them. A column holds
            the times above its lower edge, up to and with its upper edge.

    Returns:
        The mean of each column; NaN where a column has no value.
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
        times: Time of each value, rising.
        values: The values; those that are NaN are left out.
        edges: Edges of the columns, as for :func:`time_means`.

    Returns:
        The least and the greatest value of each column; NaN where it has no value.
    """
    column, kept = _columns(times, values, edges)
    low = np.full(len(edges) - 1, np.inf)
    high = np.full(len(edges) - 1, -np.inf)
    np.minimum.at(low, column, kept)
    np.maximum.at(high, column, kept)
    empty = low > high
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def _columns(
    times: np.ndarray, values: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The column of each finite value inside the edges, and these values."""
    known = np.isfinite(values)
    column = np.searchsorted(edges, times[known]) - 1
    inside = (column >= 0) & (column < len(edges) - 1)
    return column[inside], values[known][inside]
