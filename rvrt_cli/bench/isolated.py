# SPDX-License-Identifier: Apache-2.0
"""Measurements in a process of their own: the memory that one has taken must not hide in the next one's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from rvrt_cli.errors import OutOfMemoryError

_OPENMP_THREADS = "OMP_NUM_THREADS"
_CHILD_EXIT_TIMEOUT = 10.0  # s for a process to exit by itself once it has sent its result


def run_isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """Result of `function(*arguments)` in a process of its own; function, arguments and result must be picklable.

    Raises:
        OutOfMemoryError: the process ended without a result.
        Exception: whatever `function` raises.
    """
    context = get_context("spawn")  # a fork would bring this process's memory along
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(there, function, arguments), daemon=True)
    if _OPENMP_THREADS not in os.environ:  # MindSpore sets it in C, to half the cores, where os.environ does not see it
        os.unsetenv(_OPENMP_THREADS)
    process.start()
    there.close()
    try:
        result, error = here.recv()
        process.join(_CHILD_EXIT_TIMEOUT)
    except EOFError:
        process.join(_CHILD_EXIT_TIMEOUT)
        raise OutOfMemoryError(
            f"the measuring process ended without a result (status {process.exitcode}), as happens when memory runs out; "
            "give fewer --frames or a smaller --size"
        ) from None
    finally:
        if process.is_alive():
            process.kill()
            process.join()
        here.close()
    if error is not None:
        raise error
    return result


def _send_result(there: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback; the parent reports it
    outcome: tuple[Any, Exception | None]
    try:
        outcome = function(*arguments), None
    except Exception as error:  # raised again in the parent
        outcome = None, error
    there.send(outcome)
    there.close()
