"""The benchmarks run; what they measure is not judged here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip('torch')
ROOT = Path(__file__).parents[1]


def run(*command, **options):
    env = os.environ | {'PYTHONPATH': str(ROOT), 'SMD_PYTHON': sys.executable}
    return subprocess.run(
        command, env=env, capture_output=True, text=True, cwd=ROOT, **options
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_the_gpu_check_says_in_one_line_that_there_is_no_gpu(tmp_path):
    done = run('bash', 'benchmarks/gpu_check.sh', '--out', tmp_path / 'out')
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith('error: no GPU that torch ')
    assert not (tmp_path / 'out').exists()


def test_the_gpu_check_refuses_unknown_options():
    done = run('bash', 'benchmarks/gpu_check.sh', '--wrong')
    assert done.returncode == 2
    assert done.stderr.startswith('error: usage')


@pytest.mark.parametrize('option', ['--out', '--iterations', '--only'])
def test_the_gpu_check_refuses_options_without_a_value(option):
    done = run('bash', 'benchmarks/gpu_check.sh', option)
    assert done.returncode == 2
    assert done.stderr == f'error: {option} needs a value\n'


def test_some_parts_alone_do_not_replace_the_page_of_all():
    page = ROOT / 'docs/performance.md'
    before = page.read_text()
    done = run(sys.executable, 'benchmarks/run_all.py', '--only', 'soak')
    assert done.returncode == 2 and '--only needs --out' in done.stderr
    assert page.read_text() == before


def test_the_soak_prints_the_slope_of_memory():
    done = run(sys.executable, 'benchmarks/soak.py', '--iterations', '400', check=True)
    assert '| slope over the second half, bytes an iteration |' in done.stdout


def test_a_part_that_fails_is_named_in_the_page_and_in_the_exit_code(tmp_path):
    page = tmp_path / 'performance.md'
    program = (
        'import sys; sys.path.insert(0, "benchmarks"); import run_all\n'
        'run_all.PARTS = {"x": run_all.Part("X", "none", "soak.py --nonsense")}\n'
        f'sys.argv = ["run_all", "--out", {str(page)!r}]\nsys.exit(run_all.main())'
    )
    done = run(sys.executable, '-c', program)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == 'error: failed: x'
    assert 'Failed: ' in page.read_text()


@pytest.mark.parametrize(
    ('printed', 'said'),
    [
        ('| a | 5 | 99.5 |', 'Held: µs 99.5, at most 100.'),
        ('| a | 5 | 1,100.5 |', '**Missed**: µs 1.1e+03, at most 100.'),
        ('| b | 5 | 99.5 |', 'Not measured: µs, at most 100.'),
    ],
)
def test_a_figure_is_held_against_its_limit(printed, said):
    program = (
        'import sys; sys.path.insert(0, "benchmarks"); from run_all import Limit\n'
        f'limit = Limit("µs", 100, (r"a \\| 5 \\| ([\\d.,]+)",))\n'
        f'print(limit.verdict({printed!r}))\n'
        'two = Limit("more", 2, (r"x (\\d+)", r"y (\\d+)"), share=10)\n'
        'print(two.verdict("y 5 x 45"))'
    )
    done = run(sys.executable, '-c', program, check=True)
    assert done.stdout.splitlines() == [said, '**Missed**: more 4, at most 2.']


def test_ways_to_write_records_are_compared():
    program = (
        'import sys; sys.path.insert(0, "benchmarks"); import record_scale as scale\n'
        'parts = [scale.to_table(next(scale.synthetic_parts(20, 3500)))]\n'
        'scale.print_ways("synthetic", parts)'
    )
    printed = run(sys.executable, '-c', program, check=True).stdout
    assert '| synthetic: 1,280 rows |' in printed
    rows = [line.split(' | ') for line in printed.splitlines() if line[:2] == '| ']
    sizes = {name: int(size) for name, size, *_ in rows[2:]}
    [written] = [size for name, size in sizes.items() if 'as written' in name]
    assert written < 0.7 * sizes['| version 0.1: dictionaries, zstd']
