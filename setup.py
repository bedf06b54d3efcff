import re
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).parent
version = re.search(
    r"^__version__ = '(.+)'$", (root / 'smd_mmdet/__init__.py').read_text('utf-8'), re.M
)

# Of tools/, what launches a run; the rest works on a checkout.
LAUNCHERS = (
    *('common.sh', 'processes.py', 'train.py', 'test.py'),
    *('dist_*.sh', 'slurm_*.sh'),
)


class BuildWithConfigs(build_py):
    """Puts configs and launchers where mim and ``smd_mmdet::name`` look for them."""

    def run(self):
        super().run()
        if self.editable_mode:
            return  # there they are found in the checkout
        home = Path(self.build_lib, 'smd_mmdet', '.mim')
        shutil.rmtree(home, ignore_errors=True)
        ignore = shutil.ignore_patterns('__pycache__')
        shutil.copytree(root / 'configs', home / 'configs', ignore=ignore)
        shutil.copy(root / 'model-index.yml', home)
        (home / 'tools').mkdir()
        for pattern in LAUNCHERS:
            for launcher in (root / 'tools').glob(pattern):
                shutil.copy(launcher, home / 'tools')


setup(
    name='smd_mmdet',
    version=version[1],
    description='Spherical Motion Dynamics, measured, checked and used in '
    'object-detection training',
    long_description=(root / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    author='smd_mmdet contributors',
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['smd_mmdet', 'smd_mmdet.*']),
    package_data={
        'smd_mmdet': ['py.typed'],
        'smd_mmdet.report': ['*.html', '*.css', '*.js'],
    },
    cmdclass={'build_py': BuildWithConfigs},
    # A plain C library, loaded by ctypes. Without a C compiler the installation
    # goes on, and torch's operations do its work, slower.
    ext_modules=[
        Extension(
            'smd_mmdet.monitor.kernels._fused',
            ['smd_mmdet/monitor/kernels/fused.c'],
            extra_compile_args=['-O3', '-pthread'],
            extra_link_args=['-pthread'],
            optional=True,
        )
    ],
    python_requires='>=3.10',
    # torch and the detection stack are left out on purpose: each comes in
    # several builds and two distributions, and requiring one by name would
    # replace, or add to, the one a user has.
    install_requires=['numpy>=1.24', 'pyarrow>=14', 'rich>=13', 'scipy>=1.10'],
    extras_require={
        'torch': ['torch>=2.1'],
        'mmdet': ['mmengine==0.10.7', 'mmcv==2.1.0', 'mmdet==3.3.0'],
        # MMPretrain does not name torchvision, but imports it.
        'mmpretrain': [
            'mmengine==0.10.7',
            'mmcv==2.1.0',
            'mmpretrain==1.2.0',
            'torchvision>=0.16',
        ],
        'onedl': [
            'onedl-mmengine==0.10.12',
            'onedl-mmcv==2.3.6',
            'onedl-mmdetection==3.5.1',
        ],
        'plot': ['matplotlib>=3.7', 'plotly>=5.18'],
        'test': [
            'duckdb',
            'hypothesis',
            'mypy',
            'pandas',
            'psutil',
            'pytest',
            'pytest-cov',
            'ruff',
            'selenium',
            'tensorboard',
        ],
    },
    entry_points={'console_scripts': ['smd = smd_mmdet.cli:main']},
)
