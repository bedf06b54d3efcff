"""Errors that a user can put right by changing a setting."""


class SettingError(ValueError):
    """A setting that cannot work; tools end with its message, one line, exit 2."""


def first_line(error: BaseException) -> str:
    """What an error says, as one line."""
    # str() of a KeyError is the repr of its message.
    plain = len(error.args) == 1 and isinstance(error.args[0], str)
    text = (error.args[0] if plain else str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def plain_line(error: BaseException) -> str:
    """All of what an error says, on one line of at most 300 characters."""
    return ' '.join(str(error).split())[:300]
