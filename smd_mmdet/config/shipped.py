"""Configs that packages ship, named ``package::folder/name.py`` as in MMDetection.

Where smd_mmdet is imported first, ``_base_`` takes such names of this package too.
"""

import importlib.util
from pathlib import Path

__all__ = ['find_config', 'share_with_mmengine']


def find_config(name: str) -> Path:
    """The file of a config that an installed package, or its checkout, has.

    Args:
        name: ``package::folder/name.py``, such as
            ``smd_mmdet::shapes/mask-rcnn_r18_fpn_shapes.py``.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no such package or no such config in it.
    """
    package, _, path = name.partition('::')
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f'{name} needs {package}, which is not installed')
    home = Path(spec.origin).parent
    for folder in (home / '.mim' / 'configs', home.parent / 'configs'):
        if (folder / path).is_file():
            return folder / path
    raise FileNotFoundError(f'no such config in the installed {package}: {path}')


def share_with_mmengine() -> None:
    """Let MMEngine find the configs of this package; ``mmengine.config`` is imported.

    In ``_base_`` no scope is given to them: what they name means what the
    ``default_scope`` says, as in a base file of one's own, and not a module of a
    registry of ours. Also MMEngine itself would not find those of a checkout.
    """
    from mmengine.config.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    if 'smd_mmdet' in MODULE2PACKAGE:
        return
    MODULE2PACKAGE['smd_mmdet'] = 'smd_mmdet'  # for mmengine.hub
    find_base = Config._get_cfg_path

    def _get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith('smd_mmdet::'):
            return str(find_config(cfg_path)), None
        return find_base(cfg_path, filename)

    Config._get_cfg_path = staticmethod(_get_cfg_path)
