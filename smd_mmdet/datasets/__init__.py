"""Data sets: one that is drawn on the spot, so that a first run needs no download, and
a converter for one of real images.

The names load on first use: importing the package needs no OpenCV.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nuclei import convert_nuclei
    from .shapes import CLASSES, write_shapes

__all__ = ['CLASSES', 'convert_nuclei', 'write_shapes']


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if name == 'convert_nuclei':
        from .nuclei import convert_nuclei

        return convert_nuclei
    from . import shapes

    return getattr(shapes, name)
