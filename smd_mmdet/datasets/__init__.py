"""Data sets made on the spot.

The names load on first use, so that importing the package needs no OpenCV.
"""

__all__ = ['CLASSES', 'write_shapes']


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from . import shapes

    return getattr(shapes, name)
