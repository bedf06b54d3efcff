"""Our docstrings, as mkdocstrings reads them; mkdocs.yml names this file."""

import re

from griffe import Extension, Object

# Sphinx's way to name an object, such as :func:`~smd_mmdet.checks.check`.
ROLE = re.compile(r':(?:attr|class|data|func|meth|mod):`(?:~[\w.]*\.|\.+)?')
EXAMPLE = re.compile(r'^Example:$', re.MULTILINE)


class AsMkdocstringsReads(Extension):
    """Examples are a section of code, and names are only code."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Rewrite the docstring of an object that griffe has found."""
        if obj.docstring:
            text = EXAMPLE.sub('Examples:', obj.docstring.value)
            obj.docstring.value = ROLE.sub('`', text)
