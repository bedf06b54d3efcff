"""What the command lines of this package have in common."""

import argparse
from typing import NoReturn

__all__ = ['CONFIG_HELP', 'OneLineParser', 'path_argument']

CONFIG_HELP = 'file, or mmdet::folder/name.py, smd_mmdet::folder/name.py'


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage text before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {message} (see {self.prog} --help)\n')


def path_argument(text: str) -> str:
    """A path on the command line; ``type`` of an argument of argparse.

    An empty one, as from a variable that is not set, would mean the current folder.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError('the path is empty')
    return text
