"""Windows: where stages begin, and which iterations count."""

import numpy as np
import pyarrow.compute as pc
import pytest
from simulation import (
    LR,
    OPTIMIZERS,
    last_stages,
    records_of,
    small_walk,
    with_columns,
)

from smd_mmdet.checks import HOLDS, READ, check
from smd_mmdet.records import Records


def _stretched(records: Records, every: int) -> Records:
    """As if gradients had been accumulated."""
    iterations = pc.multiply(records.table['iter'], every).to_numpy()
    return with_columns(records, iter=iterations)


def test_accumulated_gradients_count_optimizer_steps():
    for stage in last_stages(check(_stretched(records_of(small_walk(2000)), 4))):
        assert stage.verdict_of('linear_convergence') == HOLDS


@pytest.mark.parametrize('every', [1, 4])
def test_stages_begin_where_their_first_window_does(every):
    walk = small_walk(lr=np.repeat([LR, LR / 10], [600, 300]))
    records = _stretched(records_of(walk), every)
    later = Records(
        records.table.filter(pc.greater(records.table['iter'], 200 * every)), {}
    )
    counts = records.table['count'].to_numpy().copy()
    counts[:1] = 0  # of the first layer, in the first window
    for found, first in (
        (records, 1),
        (with_columns(records, count=counts), 1),
        (later, 200 * every + 1),
    ):
        report = check(found)
        for layer in report.layers:
            begins = [stage.first_iter for stage in layer.stages]
            assert begins == [first, 600 * every + 1]
        assert report.measured_iterations == 900 * every + 1 - first


def test_of_one_window_the_begin_is_that_of_the_run():
    records = _stretched(records_of(small_walk(50)), 4)
    assert {stage.first_iter for stage in last_stages(check(records))} == {1}


def test_iterations_without_records_are_not_counted():
    table = records_of(small_walk(1000)).table
    gap = pc.or_(pc.less_equal(table['iter'], 300), pc.greater(table['iter'], 450))
    report = check(Records(table.filter(gap), {}))
    assert report.measured_iterations == 850


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_the_checks_use_no_column_that_they_do_not_read(optimizer):
    lr = np.repeat([LR, LR / 10], [600, 300])
    walk = small_walk(lr=lr, optimizer=optimizer, max_norm=1.0, radial=0.01)
    records = records_of(walk)
    some = records.table.select(n for n in records.table.column_names if n in READ)
    assert some.num_columns < records.table.num_columns
    found = check(Records(some, records.metadata)).to_dict()
    assert found == check(records).to_dict()
