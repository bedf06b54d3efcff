"""Which of several failures tools/processes.py tells: the one that caused the rest."""

import json
import os
import runpy
import signal

import pytest
from launching import ROOT
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


@pytest.fixture(scope='module')
def processes():
    return runpy.run_path(str(ROOT / 'tools' / 'processes.py'))


@pytest.fixture
def failed(tmp_path):
    """Makes the failure of a process, which handed over its error or could not."""

    def make(rank, exitcode, error=None, time=0.0):
        file = tmp_path / f'{rank}.json'
        if error is not None:
            extra = dict(py_callstack=f'Traceback of {error}', timestamp='1000')
            file.write_text(
                json.dumps(dict(message=dict(message=error, extraInfo=extra)))
            )
            os.utime(file, (time, time))
        return ProcessFailure(rank, 100 + rank, exitcode, str(file))

    return make


def test_the_first_error_is_the_cause_even_within_a_second(processes, failed):
    lost = failed(0, 1, 'RuntimeError: Connection closed by peer', time=1000.6)
    cause = failed(1, 1, 'KeyError: a bug', time=1000.4)
    assert min([lost, cause], key=processes['order']) is cause


def test_a_killed_process_is_the_cause(processes, failed):
    lost = failed(0, 1, 'RuntimeError: Connection closed by peer', time=1000.6)
    killed, ended = failed(1, -signal.SIGKILL), failed(2, -signal.SIGTERM)
    assert min([lost, ended, killed], key=processes['order']) is killed
    assert processes['describe'](1, killed) == (
        'process 1 (pid 101) was killed by SIGKILL, often for want of memory; '
        'the run was ended'
    )


def test_of_equal_wrong_settings_the_first_is_told_and_once(processes, failed, capsys):
    wrong = [
        failed(rank, 2, 'SettingError: lr: is\nwrong', time=1000 - rank)
        for rank in range(3)
    ]
    with pytest.raises(SystemExit) as exit:
        processes['refuse_wrong_setting'](wrong)
    assert exit.value.code == 2
    assert capsys.readouterr().err == 'error: lr: is wrong\n'


def test_a_wrong_argument_was_told_by_the_process_itself(processes, failed, capsys):
    with pytest.raises(SystemExit):
        processes['refuse_wrong_setting']([failed(0, 2)])
    assert capsys.readouterr().err == ''
    processes['refuse_wrong_setting']([failed(0, 1)])
