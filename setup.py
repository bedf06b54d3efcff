"""What pyproject.toml, which holds the metadata, cannot say.

A C library is compiled, and the wheel carries the configs and the launchers.
"""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# Of tools/, what launches a run; the rest works on a checkout only.
LAUNCHERS = (
    *('common.sh', 'processes.py', 'train.py', 'test.py'),
    *('dist_*.sh', 'slurm_*.sh'),
)


class BuildWithConfigs(build_py):
    """Puts configs and launchers where mim and ``smd_mmdet::name`` look for them."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # they are found in the checkout
        home = Path(self.build_lib, 'smd_mmdet', '.mim')
        shutil.rmtree(home, ignore_errors=True)
        ignore = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / 'configs', home / 'configs', ignore=ignore)
        shutil.copy(ROOT / 'model-index.yml', home)
        (home / 'tools').mkdir()
        for pattern in LAUNCHERS:
            for launcher in (ROOT / 'tools').glob(pattern):
                shutil.copy(launcher, home / 'tools')


setup(
    cmdclass={'build_py': BuildWithConfigs},
    # A plain C library, loaded by ctypes. Without a C compiler the installation goes
    # on, and torch's operations do the work of the library, more slowly.
    ext_modules=[
        Extension(
            'smd_mmdet.monitor.kernels._fused',
            ['smd_mmdet/monitor/kernels/fused.c'],
            extra_compile_args=['-O3', '-pthread'],
            extra_link_args=['-pthread'],
            optional=True,
        )
    ],
)
