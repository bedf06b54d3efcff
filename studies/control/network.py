"""The small network, and the images it sees, in memory."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

__all__ = ['Images', 'network', 'read_images']

# Channels and strides of the convolutions.
WIDTHS, STRIDES = (16, 32, 32, 32), (2, 2, 1, 2)


def network(classes: int, norms: float, seed: int) -> nn.Sequential:
    """Convolutions, each with batch norm behind it, and a linear layer.

    Args:
        classes: Number of classes.
        norms: What the initial norms of the convolutions are multiplied by.
        seed: Seed of their directions.
    """
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    channels = 3
    for width, stride in zip(WIDTHS, STRIDES, strict=True):
        conv = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        with torch.no_grad():
            conv.weight.mul_(norms)
        parts += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*parts, *head)


class Images:
    """Images and their classes.

    Args:
        images: uint8 of shape (images, 3, height, width).
        labels: int64 of shape (images,).
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images by number, of mean 0 and deviation 1 or so; and their classes."""
        chosen = torch.from_numpy(index)
        return (self.images[chosen].float() - 128) / 64, self.labels[chosen]


def read_images(folder: Path) -> Images:
    """Read ``folder/CLASS/*.png``, in an order that has the classes mixed.

    Args:
        folder: The folder of a split.

    Raises:
        OSError: If there are no images, or one cannot be read.
    """
    names = sorted(path.name for path in folder.glob('*') if path.is_dir())
    found, labels = [], []
    for label, name in enumerate(names):
        for file in sorted((folder / name).glob('*.png')):
            picture = cv2.imread(str(file))
            if picture is None:
                raise OSError(f'{file} cannot be read')
            found.append(picture.transpose(2, 0, 1))
            labels.append(label)
    if not found:
        raise OSError(f'{folder} has no images')
    order = np.random.default_rng(0).permutation(len(found))
    return Images(np.stack(found)[order], np.array(labels)[order])
