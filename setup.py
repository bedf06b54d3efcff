from pathlib import Path

from setuptools import find_packages, setup

readme = Path(__file__).with_name('README.md')

setup(
    name='smd_mmdet',
    version='0.1.0',
    description='Spherical Motion Dynamics, measured, checked and used in '
    'object-detection training',
    long_description=readme.read_text('utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
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
    package_data={'smd_mmdet.report': ['*.html', '*.css', '*.js']},
    python_requires='>=3.10',
    # torch and the detection stack are left out on purpose: each comes in
    # several builds and two distributions, and requiring one by name would
    # replace, or add to, the one a user has.
    install_requires=['numpy>=1.24', 'pyarrow>=14', 'rich>=13', 'scipy>=1.10'],
    extras_require={
        'torch': ['torch>=2.1'],
        'mmdet': ['mmengine==0.10.7', 'mmcv==2.1.0', 'mmdet==3.3.0'],
        'onedl': [
            'onedl-mmengine==0.10.12',
            'onedl-mmcv==2.3.6',
            'onedl-mmdetection==3.5.1',
        ],
        'plot': ['matplotlib>=3.7', 'plotly>=5.18'],
        'test': [
            'duckdb',
            'hypothesis',
            'pandas',
            'psutil',
            'pytest',
            'ruff',
            'selenium',
            'tensorboard',
        ],
    },
    entry_points={'console_scripts': ['smd = smd_mmdet.cli:main']},
)
