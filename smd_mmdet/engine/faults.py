"""What keeps a fault of ours from ending the training of others."""

from __future__ import annotations

import functools
from collections.abc import Callable

from smd_mmdet.config.errors import SettingError

__all__ = ['survive', 'survive_or_refuse']


def survive(method: Callable[..., None]) -> Callable[..., None]:
    """Let training go on after a fault in a method of one of our hooks.

    The fault goes to the hook's ``give_up(runner, fault)``, which warns and ends the
    work of that hook, and nothing else.

    Args:
        method: A method of the hook, whose first argument is the runner.
    """
    return _guarded(method, ())


def survive_or_refuse(method: Callable[..., None]) -> Callable[..., None]:
    """As :func:`survive`, but a wrong setting of the user's ends the run.

    It is for what comes before the first iteration.

    Args:
        method: A method of the hook, whose first argument is the runner.
    """
    return _guarded(method, SettingError)


def _guarded(
    method: Callable[..., None], let_through: type[Exception] | tuple[()]
) -> Callable[..., None]:
    @functools.wraps(method)
    def guarded(hook, runner, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        try:
            method(hook, runner, *args, **kwargs)
        except let_through:
            raise
        except Exception as fault:
            hook.give_up(runner, fault)

    return guarded
