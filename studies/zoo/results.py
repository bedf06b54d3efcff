"""What is kept of the audits, as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ['Results']


@dataclass(frozen=True)
class Results:
    """Results of audits in a folder, a file for each.

    Args:
        folder: The folder.
        code: What is running, which is kept with each result.
    """

    folder: Path
    code: str = ''

    def path(self, name: str, mode: str) -> Path:
        return self.folder / f'{name.replace("/", "--")}.{mode}.json'

    def read(self, name: str, mode: str) -> dict | None:
        """The result of an audit; None if it is not done."""
        path = self.path(name, mode)
        return json.loads(path.read_text()) if path.exists() else None

    def write(self, name: str, mode: str, result: dict) -> None:
        """Keep a result; an interrupted call leaves no half of it."""
        path = self.path(name, mode)
        temporary = path.with_suffix('.tmp')
        temporary.write_text(json.dumps(result | {'code': self.code}, indent=1))
        temporary.replace(path)
