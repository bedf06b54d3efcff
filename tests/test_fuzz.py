"""Arbitrary input to the theory, the forecast, the records and the command line."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smd_mmdet import theory
from smd_mmdet.cli import main
from smd_mmdet.forecast import forecast
from smd_mmdet.records import RecordsError, RecordWriter, read_records

FEW = settings(max_examples=40, deadline=None, derandomize=True)
SOME = settings(max_examples=100, deadline=None, derandomize=True)

anything = st.one_of(
    st.floats(), st.integers(-5, 5), st.just(10**400), st.text(max_size=3), st.none(),
    st.lists(st.floats(), max_size=3), st.booleans(),
)  # fmt: skip

FORMULAS = {
    theory.angular_update: 3,
    theory.equilibrium_norm: 4,
    theory.relaxation_rate: 3,
    theory.iterations_to_equilibrium: 4,
    theory.iterations_to_tolerance: 5,
    theory.rescale_factor: 1,
    theory.weight_decay_for: 3,
    theory.adamw_angular_update: 3,
}


@SOME
@given(formula=st.sampled_from(sorted(FORMULAS, key=str)), data=st.data())
def test_a_formula_gives_a_number_or_names_what_is_wrong(formula, data):
    arguments = [data.draw(anything) for _ in range(FORMULAS[formula])]
    try:
        with np.errstate(all='ignore'):
            found = formula(*arguments)
    except ValueError as error:
        assert str(error)
    else:
        assert not np.isnan(found).any()


@SOME
@given(
    lr=st.floats(1e-8, 10.0),
    weight_decay=st.floats(1e-8, 0.1),
    momentum=st.floats(0.0, 0.99),
)
def test_inverse_formulas_are_inverse(lr, weight_decay, momentum):
    angle = theory.angular_update(lr, weight_decay, momentum)
    back = theory.weight_decay_for(angle, lr, momentum)
    assert back == pytest.approx(weight_decay, rel=1e-9)
    slower = theory.angular_update(lr / 16, weight_decay, momentum)
    assert angle / slower == pytest.approx(4, rel=1e-9)


@FEW
@given(
    lr=st.lists(anything, max_size=6),
    weight_decay=anything,
    momentum=anything,
    norm=anything,
    unit_grad_sq=anything,
    rescale=st.booleans(),
)
def test_a_forecast_is_made_or_refused(
    lr, weight_decay, momentum, norm, unit_grad_sq, rescale
):
    settings = dict(norm=norm, unit_grad_sq=unit_grad_sq, rescale=rescale)
    try:
        with np.errstate(all='ignore'):
            ahead = forecast(lr, weight_decay, momentum, **settings)
    except ValueError as error:
        assert str(error)
    else:
        assert len(ahead.weight_norm) == len(lr)


@FEW
@given(
    lr=st.lists(st.floats(1e-6, 0.5), min_size=1, max_size=40),
    weight_decay=st.floats(1e-6, 0.1),
    momentum=st.floats(0.0, 0.9),
    norm=st.floats(1e-3, 1e3),
    unit_grad_sq=st.floats(0.0, 1e3),
)
def test_a_forecast_stays_finite(lr, weight_decay, momentum, norm, unit_grad_sq):
    ahead = forecast(lr, weight_decay, momentum, norm=norm, unit_grad_sq=unit_grad_sq)
    assert (ahead.weight_norm > 0).all() and np.isfinite(ahead.weight_norm).all()
    assert ((ahead.angular_update >= 0) & (ahead.angular_update <= 4)).all()


# ---------------------------------------------------------------- records

names = st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=30)


@FEW
@given(
    layers=st.lists(names, min_size=1, max_size=4, unique=True),
    values=st.lists(st.floats(), min_size=4, max_size=4),
    iterations=st.lists(st.integers(1, 10**10), min_size=1, max_size=5, unique=True),
)
def test_any_rows_come_back_as_written(tmp_path_factory, layers, values, iterations):
    folder = tmp_path_factory.mktemp('records')
    writer = RecordWriter(folder, {'layers': {name: {} for name in layers}})
    count = len(layers)
    shapes = np.empty(count, dtype=object)
    shapes[:] = [(3, 3)] * count
    for iteration in sorted(iterations):
        writer.append(
            {
                'iter': np.full(count, iteration),
                'count': np.full(count, 10),
                'layer': np.array(layers, dtype=object),
                'shape': shapes,
                'stage': np.zeros(count, dtype=np.int64),
                'weight_norm_mean': np.array(values[:count]),
            }
        )
    records = read_records(folder)
    assert list(records.metadata['layers']) == layers
    for (name, columns), expected, value in zip(
        records.by_layer(), layers, values, strict=False
    ):
        assert name == expected
        assert columns['iter'].tolist() == sorted(iterations)
        np.testing.assert_array_equal(columns['weight_norm_mean'], value)


@pytest.fixture(scope='module')
def part(tmp_path_factory):
    """A folder with one part, and its bytes."""
    folder = tmp_path_factory.mktemp('part')
    shapes = np.empty(2, dtype=object)
    shapes[:] = [(3, 3), (4,)]
    RecordWriter(folder, {'theory': 'sgd', 'layers': {}}).append(
        {
            'iter': np.array([10, 10]),
            'count': np.array([10, 10]),
            'layer': np.array(['a', 'b'], dtype=object),
            'shape': shapes,
            'stage': np.zeros(2, dtype=np.int64),
            'weight_norm_mean': np.array([1.0, 2.0]),
        }
    )
    [path] = (folder / 'smd').glob('*.parquet')
    return folder, path, path.read_bytes()


@SOME
@given(data=st.data())
def test_mutated_bytes_are_read_or_named(part, data):
    folder, path, content = part
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path.write_bytes(changed[:end])
    try:
        assert read_records(folder).table.num_rows > 0
    except RecordsError as error:
        assert str(error) and '\n' not in str(error)


# ---------------------------------------------------------------- settings

SETTINGS = {
    'SMDHook': (
        *('window', 'include', 'exclude', 'verify', 'visualize', 'granularity'),
        *('report', 'windows'),
    ),
    'SMDRescaleHook': (
        *('at_lr_drops', 'continuous', 'start_at_equilibrium', 'exclude', 'start'),
    ),
}
START = ('begin', 'measure', 'repeats', 'max_factor', 'tolerance', 'end', 1)
values = anything | st.dictionaries(st.sampled_from(START), anything, max_size=4)


@SOME
@given(st.data())
def test_any_settings_of_a_hook_are_taken_or_refused_by_name(data):
    registry = pytest.importorskip('mmengine.registry')
    from smd_mmdet.engine import SettingError

    hook = data.draw(st.sampled_from(list(SETTINGS)))
    keys = st.sampled_from(SETTINGS[hook])
    settings = data.draw(st.dictionaries(keys, values, max_size=3))
    try:
        registry.HOOKS.build(dict(type=hook, **settings))
    except SettingError as error:
        assert str(error).startswith(hook)
        assert any(str(key) in str(error) for key in settings)


# ---------------------------------------------------------------- commands

COMMANDS = ('audit', 'plan', 'transfer', 'check', 'report', 'compare', 'shapes')
OPTIONS = (
    *('--json', '--verify', '--verbose', '--svg', '--help', '-o', '--layer', '--gpus'),
    *('--work-dir', '--iters-per-epoch', '--train', '--val', '--size', '--seed'),
    *('--', '-', '-x', '--nonsense', '--train=-1', '--size=0', '--seed=x'),
)
words = st.one_of(
    st.sampled_from(OPTIONS),
    st.sampled_from(('0', '1', '-1', '1e9', 'nan', '', '.', '/dev/null', 'mmdet::')),
    st.text(st.characters(exclude_categories=['Cs']), max_size=6).map(
        lambda text: f'nothing-{text.replace("/", "")}'
    ),
)


@FEW
@given(
    command=st.sampled_from((*COMMANDS, 'nonsense', '')),
    rest=st.lists(words, max_size=5),
)
def test_any_command_line_ends_with_a_code(tmp_path_factory, command, rest):
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(tmp_path_factory.mktemp('here')),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main([command, *rest])
        except SystemExit as end:
            code = end.code
    assert code in (0, 1, 2)
    if code == 2:
        assert err.getvalue().count('\n') == 1, err.getvalue()
    assert 'Traceback' not in err.getvalue()
