"""Errors of MMEngine, torch and the machine that a user can mend, as wrong settings."""

import errno
import pickle
import re

from mmengine import registry as registries
from mmengine.registry import Registry

from smd_mmdet._text import did_you_mean, first_line
from smd_mmdet.config.errors import SettingError

__all__ = ['as_setting_error']

_NOT_REGISTERED = re.compile(r'(\S+) is not in the (?:\w+::)?([\w ]+?) registry')


def as_setting_error(error: Exception) -> SettingError | None:
    """What to tell a user instead of an error.

    Args:
        error: What a run has ended with.

    Returns:
        An error whose message is one line; None if a traceback tells more.

    Example:
        >>> import smd_mmdet.engine
        >>> as_setting_error(KeyError('SMDhook is not in the mmdet::hook registry.'))
        SettingError("type='SMDhook': no such hook; did you mean 'SMDHook'?")
        >>> as_setting_error(KeyError('a bug'))
    """
    if isinstance(error, SettingError):
        return error
    if isinstance(error, KeyError) and (found := _NOT_REGISTERED.search(str(error))):
        return _not_registered(found[1].strip('\'"`'), found[2])
    if isinstance(error, pickle.UnpicklingError):
        return _unpickled(str(error))
    if isinstance(error, RuntimeError) and 'PytorchStreamReader' in str(error):
        return SettingError(
            f'the checkpoint is damaged: {first_line(error)}; take an earlier one'
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f' ({error.filename})' if error.filename else ''
        return SettingError(
            f'{error.strerror}{where}: make room, then go on with --resume'
        )
    return None


def _unpickled(message: str) -> SettingError:
    """The error for a file that torch does not load, by what torch says of it."""
    if refused := re.search(r'GLOBAL (\S+)', message):
        why = f'it would load {refused[1]}'
    else:
        reason = re.search(r'WeightsUnpickler error:\s*(.+)', message)
        why = reason[1] if reason else message
        why = f'this is none that torch can read so ({why.strip():.100})'
    return SettingError(
        'the checkpoint is refused: only weights and plain values are loaded, '
        f'and {why}'
    )


def _not_registered(name: str, kind: str) -> SettingError:
    """The error for a name of a class that a registry of MMEngine lacks."""
    bare = name.rpartition('.')[2]
    known = {
        known
        for root in vars(registries).values()
        if isinstance(root, Registry) and root.name == kind
        for known in _names(root)
    }
    # Of names that differ in capitals only, difflib thinks little.
    same = [known for known in sorted(known) if known.lower() == bare.lower()]
    hint = did_you_mean(bare, sorted(known))
    if same:
        hint = f'did you mean {same[0]!r}?'
    return SettingError(
        f'type={name!r}: no such {kind}; '
        + (hint or 'is the module that has it in custom_imports?')
    )


def _names(registry: Registry) -> list[str]:
    """Names in a registry and in those of other packages that join it."""
    names = list(registry.module_dict)
    for child in registry.children.values():
        names += _names(child)
    return names
