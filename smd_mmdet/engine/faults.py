"""What keeps a fault of ours from ending the training of others."""

from __future__ import annotations

import functools
from collections.abc import Callable

__all__ = ['survive']


def survive(method: Callable[..., None]) -> Callable[..., None]:
    """Let training go on after a fault in a method of one of our hooks.

    The fault goes to the hook's ``give_up(runner, fault)``, which warns and ends the
    work of that hook, and nothing else.

    Args:
        method: A method of the hook, whose first argument is the runner.
    """

    @functools.wraps(method)
    def guarded(hook, runner, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        try:
            method(hook, runner, *args, **kwargs)
        except Exception as fault:
            hook.give_up(runner, fault)

    return guarded
