"""Data sets that are drawn on the spot, so that a first run needs no download.

The names load on first use: importing the package needs no OpenCV.
"""

__all__ = ['CLASSES', 'write_shapes']


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from . import shapes

    return getattr(shapes, name)
