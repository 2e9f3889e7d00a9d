# SPDX-License-Identifier: Apache-2.0
"""A request to stop, which waits until what is being computed can be kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Interruption:
    """What a signal handler asks of a job.

    Attributes:
        requested: computing is to end after the present window.
        waits: a request waits for the end of the present window; otherwise it interrupts at once.
    """

    def __init__(self) -> None:
        self.requested = self.waits = False

    def request(self, *_: object) -> None:
        """Ask to stop; a signal handler.

        Raises:
            KeyboardInterrupt: there is nothing to wait for.
        """
        if not self.waits:
            raise KeyboardInterrupt
        self.requested = True

    @contextlib.contextmanager
    def after_window(self) -> Iterator[None]:
        """Inside, requests wait; what is inside looks at `requested` and raises KeyboardInterrupt itself."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False
