"""Errors that a user can put right by changing a setting."""

__all__ = ['SettingError']


class SettingError(ValueError):
    """A setting that cannot work; tools end with its message, one line, exit 2."""
