"""The text of the new config, and how it comes to the disk."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from smd_mmdet._text import one_line
from smd_mmdet.config.errors import SettingError
from smd_mmdet.config.load import load_config
from smd_mmdet.config.rescaling import read_rescaling
from smd_mmdet.config.types import names_class

__all__ = [
    'Changes',
    'Composed',
    'NewConfig',
    'check_bases',
    'check_output',
    'compose',
    'write',
]

_MONITOR, _RESCALER = 'SMDHook', 'SMDRescaleHook'
_CONSTRUCTOR = 'SMDOptimWrapperConstructor'
_PACKAGE = 'smd_mmdet'


@dataclass(frozen=True)
class NewConfig:
    """What the new config is to say.

    Args:
        config: The config that it inherits, as the user calls it.
        run: Folder of the run that it follows.
        scale_time: Whether the run is stretched or shortened.
        exclude: Names or patterns of weights that are left alone.
        every: Steps from one measurement of Δ to the next.
        window: Steps in a window of the run's records; None if not known.
    """

    config: str
    run: str
    scale_time: bool
    exclude: tuple[str, ...]
    every: int
    window: int | None = None

    @property
    def monitor(self) -> dict[str, Any]:
        """SMDHook, with windows as long as the run's, so that they can be compared."""
        return dict(type=_MONITOR) | (dict(window=self.window) if self.window else {})

    @property
    def hook(self) -> dict[str, Any]:
        """SMDRescaleHook."""
        follow: dict[str, Any] = dict(run=self.run)
        if self.scale_time:
            follow['scale_time'] = True
        hook: dict[str, Any] = dict(type=_RESCALER, angular_update=follow)
        if self.exclude:
            hook['exclude'] = list(self.exclude)
        return hook | dict(every=self.every)


@dataclass(frozen=True)
class Changes:
    """What the new config has that the old one has not.

    Args:
        monitor: Whether it adds SMDHook.
        constructor: Whether it adds SMDOptimWrapperConstructor.
        foreign: Name of the constructor that the old one has, if it is another.
        replaced: Whether it replaces the settings of an SMDRescaleHook.
        work_dir: The ``work_dir`` that it sets; '' for none.
        copied: Whether it has the settings of the old one themselves.
    """

    monitor: bool
    constructor: bool
    foreign: str
    replaced: bool
    work_dir: str
    copied: bool


@dataclass(frozen=True)
class Composed:
    """A config's text, and what is new in it."""

    text: str
    changes: Changes


def check_output(target: Path, config: str, force: bool) -> None:
    """Refuse a file that cannot be written, before anything is read.

    Args:
        target: The file.
        config: The config that it is to inherit.
        force: Whether it may be there already.

    Raises:
        SettingError: If so, with what to do.
    """
    said = f'-o {target}'
    if target.suffix != '.py':
        raise SettingError(f'{said}: the name of a config ends in .py')
    if not target.parent.is_dir():
        raise SettingError(f'{said}: there is no folder {target.parent}')
    if '::' not in config and target.resolve() == Path(config).resolve():
        raise SettingError(f'{said}: it is the config itself, which it is to inherit')
    if target.is_dir():
        raise SettingError(f'{said}: it is a folder')
    if target.exists() and not force:
        raise SettingError(f'{said}: it is there already (--force writes over it)')


def check_bases(target: Path, base: Config) -> None:
    """Refuse to write over what the config inherits itself.

    Args:
        target: The file.
        base: The config that it is to inherit.

    Raises:
        SettingError: If so.
    """
    if base.filename and target.resolve() in _files_of(Path(base.filename)):
        raise SettingError(f'-o {target}: the config inherits it; choose another name')


def _files_of(file: Path) -> set[Path]:
    """A config's file and those that it inherits, over any number of steps."""
    found = {file.resolve()}
    if not Config._is_lazy_import(str(file)):
        for name in Config._get_base_files(str(file)):
            path, _ = Config._get_cfg_path(name, str(file))
            found |= _files_of(Path(path))
    return found


def compose(new: NewConfig, base: Config, target: Path) -> Composed:
    """The text of the new config.

    Args:
        new: What it is to say.
        base: The config that it inherits.
        target: The file that it is for.

    Raises:
        SettingError: If training it would write to the folder of the run it follows.
    """
    hooks = list(base.get('custom_hooks') or ())
    constructor = (base.get('optim_wrapper') or {}).get('constructor')
    ours = constructor is not None and names_class(constructor, _CONSTRUCTOR)
    default = constructor in (None, 'DefaultOptimWrapperConstructor')
    changes = Changes(
        monitor=not any(_is(hook, _MONITOR) for hook in hooks),
        constructor=default,
        foreign='' if ours or default else str(constructor),
        replaced=any(_is(hook, _RESCALER) for hook in hooks),
        work_dir=_work_dir(new, base, target),
        copied=_is_new_style(base),
    )
    settings: dict[str, Any] = {'custom_imports': _imports(base)}
    if changes.constructor:
        settings['optim_wrapper'] = dict(constructor=_CONSTRUCTOR)
    if changes.work_dir:
        settings['work_dir'] = changes.work_dir
    added = [new.monitor] * changes.monitor + [new.hook]
    if changes.copied:
        return Composed(_copied(new, base, settings, added), changes)
    lines = [_head(new), f'_base_ = {[_base_name(new.config, target)]!r}']
    lines += [f'{name} = {_code(value)}' for name, value in settings.items()]
    lines += ['custom_hooks = [', *(f'    {one},' for one in _kept(hooks))]
    lines += [f'    {_in_lines(hook)},' for hook in added]
    return Composed('\n'.join([*lines, ']', '']), changes)


def write(target: Path, text: str, new: NewConfig) -> None:
    """Write the new config, once MMEngine has read it as it is meant.

    Args:
        target: The file.
        text: Its text.
        new: What it is to say.

    Raises:
        SettingError: If MMEngine does not read it so.
        OSError: If it cannot be written; nothing half-written stays.
    """
    # In the folder of its own, where the relative paths of it lead.
    temporary = target.with_name(f'.{target.stem}.{os.getpid()}.py')
    try:
        with open(temporary, 'w', encoding='utf-8') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            hooks = read_rescaling(load_config(str(temporary)))
        except SettingError as fault:
            why = one_line(fault).replace(str(temporary), str(target))
            raise SettingError(f'{new.config} cannot be inherited: {why}') from fault
        if (
            len(hooks) != 1
            or hooks[0].control is None
            or hooks[0].control.run != new.run
        ):
            raise SettingError(
                f'{new.config} cannot be inherited: its custom_hooks are not as they '
                'were when the new config reads them'
            )
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _head(new: NewConfig) -> str:
    return (
        f'# Follows the angular updates that {one_line(new.run)} has recorded.\n'
        '# Written by `smd transfer`; docs/transfer.md tells what it keeps the same.'
    )


def _base_name(config: str, target: Path) -> str:
    """How the new file calls the config: by the way on which the user named it."""
    if '::' in config or Path(config).is_absolute():
        return config
    try:
        return os.path.relpath(Path(config).resolve(), target.parent.resolve())
    except ValueError:  # on another drive
        return str(Path(config).resolve())


def _kept(hooks: list) -> list[str]:
    """Code that stands for the hooks of the base that stay as they are."""
    if not hooks:
        return []
    if not any(_is(hook, _RESCALER) for hook in hooks):
        return ['*_base_.custom_hooks']
    return [
        f'_base_.custom_hooks[{i}]'
        for i, hook in enumerate(hooks)
        if not _is(hook, _RESCALER)
    ]


def _is(hook: Any, name: str) -> bool:
    return isinstance(hook, Mapping) and names_class(hook, name)


def _imports(base: Config) -> dict[str, Any]:
    """``custom_imports`` of the base, with this package among them."""
    found = base.get('custom_imports') or {}
    names = found.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    if _PACKAGE not in names:
        names.append(_PACKAGE)
    strict = found.get('allow_failed_imports', False)
    return dict(imports=names, allow_failed_imports=bool(strict))


def _work_dir(new: NewConfig, base: Config, target: Path) -> str:
    """The folder to set for the new run, where it would else be the old run's.

    SMDHook sets the records of an earlier run aside before anybody can follow them.
    """
    run, default = Path(new.run).resolve(), Path('work_dirs', target.stem)
    given = base.get('work_dir')
    if given is not None and Path(given).resolve() != run:
        return ''
    if default.resolve() == run:
        raise SettingError(
            f'-o {target}: training it would write to {default}, the folder of the run '
            'that it follows; give it another name'
        )
    return '' if given is None else str(default)


def _is_new_style(base: Config) -> bool:
    """Whether a config imports its bases as modules, which no `_base_` can name."""
    file = base.filename
    return bool(file and str(file).endswith('.py') and Config._is_lazy_import(file))


def _copied(
    new: NewConfig, base: Config, settings: Mapping[str, Any], added: list[dict]
) -> str:
    """The whole settings of a config that cannot be inherited from, with ours."""
    whole = copy.deepcopy(base)
    whole.merge_from_dict(dict(settings))
    hooks = [h for h in whole.get('custom_hooks') or () if not _is(h, _RESCALER)]
    whole.custom_hooks = [*hooks, *added]
    return (
        f'{_head(new)}\n'
        f'# A copy of the settings of {one_line(new.config)}, which imports its bases '
        'as modules\n# and cannot be a `_base_`.\n'
        f'{whole.pretty_text}'
    )


def _in_lines(hook: Mapping[str, Any]) -> str:
    """Code of a hook, a line for each setting if there are several."""
    if len(hook) < 3:
        return _code(hook)
    settings = ''.join(f'        {k}={_code(v)},\n' for k, v in hook.items())
    return f'dict(\n{settings}    )'


def _code(value: Any) -> str:
    """Python for plain values, with dicts as configs write them."""
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{k}={_code(v)}" for k, v in value.items())})'
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(map(_code, value))}]'
    return repr(value)
