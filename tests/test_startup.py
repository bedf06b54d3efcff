"""What starts fast, told by what is imported: no time is measured here."""

import subprocess
import sys

import pytest

HEAVY = (
    *('torch', 'mmengine', 'mmcv', 'mmdet', 'pyarrow', 'scipy', 'matplotlib'),
    *('plotly', 'pandas', 'rich', 'cv2'),
)
CLI = 'from smd_mmdet.cli import main\ntry:\n    main({})\nexcept SystemExit:\n    pass'


def imported(program):
    """Which of the heavy packages a program imports."""
    program += f'\nimport sys\nprint("", *sorted(set(sys.modules) & set({HEAVY})))'
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    'program',
    [
        'import smd_mmdet',
        CLI.format(['--help']),
        *(
            CLI.format([command, '--help'])
            for command in (
                *(
                    'audit',
                    'plan',
                    'transfer',
                    'check',
                    'report',
                    'compare',
                    'shapes',
                    'env',
                ),
            )
        ),
        CLI.format(['no-such-command']),
        'from smd_mmdet import theory\ntheory.angular_update(0.1, 1e-4, 0.9)',
    ],
)
def test_nothing_heavy_is_imported(program):
    assert imported(program) == []


def test_the_list_of_heavy_packages_would_show_them():
    assert 'torch' in imported('from smd_mmdet import SphericalMotionMonitor')


def test_theory_and_forecast_work_without_torch_and_mmdet():
    blocked = '\n'.join(f'sys.modules[{name!r}] = None' for name in HEAVY[:4])
    program = (
        f'import sys\n{blocked}\nimport numpy as np\n'
        'from smd_mmdet import theory\nfrom smd_mmdet.forecast import forecast\n'
        'theory.equilibrium_norm(0.1, 1e-4, 1.0, 0.9)\n'
        'forecast(np.full(9, 0.1), 1e-4, 0.9, norm=1.0, unit_grad_sq=1.0)\n'
    )
    subprocess.run([sys.executable, '-c', program], check=True)
