"""A page with its figures, as it is kept in docs/."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from smd_mmdet.report import write_files

__all__ = ['write_document']


def write_document(
    out: Path, paragraphs: Sequence[str], folder: Path, images: Mapping[str, bytes]
) -> None:
    """Write a page, and before it the figures that it shows.

    Args:
        out: File of the page.
        paragraphs: Its text, in Markdown.
        folder: Folder of the figures, from that of the page.
        images: The figures by their file names.

    Raises:
        OSError: If a file cannot be written.
    """
    write_files(out.parent / folder, images)
    write_files(out.parent, {out.name: ('\n\n'.join(paragraphs) + '\n').encode()})
