"""Starts a run: command-line arguments, checks before the start, processes, errors.

:mod:`.arguments` holds what the command lines share, :mod:`.data_files` and
:mod:`.machine` refuse a run that cannot work before anything is built, and
:mod:`.runner` builds MMEngine's runner and tells of errors.
"""
