"""What a run says of itself while it goes on: one line, and scalars by name."""

import numpy as np

from smd_mmdet.checks.live import IN_EQUILIBRIUM, Standing
from smd_mmdet.monitor.quantities import QUANTITIES


def summary(standing: Standing) -> str:
    """One line about where the layers stand.

    Args:
        standing: Of the newest windows.

    Returns:
        How many layers are in which state, the spread of Δ/Δ*, and how many
        iterations at the present rate the last layer is away from equilibrium.
    """
    counts = standing.counts()
    here = counts.pop(IN_EQUILIBRIUM, 0)
    parts = [f'smd: {here} of {len(standing.layer)} layers in equilibrium']
    parts += [f'{number} {state}' for state, number in sorted(counts.items())]
    line = ', '.join(parts)
    ratio = standing.angular_update_ratio
    known = np.isfinite(ratio)
    if known.any():
        lowest = int(np.nanargmin(np.where(known, ratio, np.inf)))
        line += (
            f'; median Δ/Δ* {np.median(ratio[known]):.3f}, lowest {ratio[lowest]:.3f} '
            f'({one_line(standing.layer[lowest])})'
        )
    waiting = standing.iterations[np.isfinite(standing.iterations)]
    if waiting.size and waiting.max() > 0:
        line += f'; the last one needs {waiting.max():,.0f} iterations more'
    return line


def one_line(text: str) -> str:
    """A text without line breaks: a layer may have any name."""
    return ' '.join(text.split())


def scalars(rows: dict[str, np.ndarray], standing: Standing) -> dict[str, float]:
    """Values of one window by the names under which they are shown.

    Args:
        rows: Columns of the records, one row per layer.
        standing: Where these layers stand.

    Returns:
        ``smd/<quantity>/<layer>`` to value, and ``smd/layers/<state>`` to the number
        of layers in it; what is not finite is left out.
    """
    values = {quantity: rows[f'{quantity}_mean'] for quantity in QUANTITIES} | {
        'angular_update_ratio': standing.angular_update_ratio,
        'weight_norm_ratio': standing.weight_norm_ratio,
        'iterations_to_equilibrium': standing.iterations,
    }
    shown = {
        f'smd/{quantity}/{layer}': float(value)
        for quantity, of_layers in values.items()
        for layer, value in zip(rows['layer'], of_layers, strict=True)
        if np.isfinite(value)
    }
    for state, number in standing.counts().items():
        shown[f'smd/layers/{state.replace(" ", "_")}'] = float(number)
    return shown
