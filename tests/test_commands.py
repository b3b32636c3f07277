"""What the other tests run commands with."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from commands import exit_code, fork


@pytest.mark.slow
def test_two_threads_are_told_what_their_processes_ended_with():
    """Processes that end just as others are begun; `join` and `exitcode` alone were told 255 of some."""
    lives = lambda n: exit_code(fork(time.sleep, 0.002 * (n % 7)), 60)
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lives, range(500))) == {0}


def test_a_process_that_is_still_at_work_has_no_exit_code():
    process = fork(time.sleep, 60)
    assert exit_code(process, 0.01) is None
    process.kill()
    assert exit_code(process, 60) == -9
