"""Measure in another process: memory that one measurement has taken must not hide in the next one's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from rvrt_cli.errors import OutOfMemoryError

_THREADS = "OMP_NUM_THREADS"
_PATIENCE = 10.0  # s for a process to end by itself once it has answered


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a process of its own; its result or its error comes back. All of them can be pickled.

    Raises:
        OutOfMemoryError: the process ended without an answer; what `function` raises.
    """
    context = get_context("spawn")  # a copy of this process would bring its memory along
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, function, arguments), daemon=True)
    if _THREADS not in os.environ:  # MindSpore sets it in C, to half the cores, where os.environ does not see it
        os.unsetenv(_THREADS)
    process.start()
    there.close()
    try:
        result, error = here.recv()
        process.join(_PATIENCE)
    except EOFError:
        process.join(_PATIENCE)
        raise OutOfMemoryError(
            f"the process that measured ended without an answer (status {process.exitcode}), as when memory runs out; "
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


def _answer(there: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback; the parent tells the user
    answer: tuple[Any, Exception | None]
    try:
        answer = function(*arguments), None
    except Exception as error:  # raised again in the parent
        answer = None, error
    there.send(answer)
    there.close()
