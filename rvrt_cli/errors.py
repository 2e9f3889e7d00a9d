# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on.

Every message says what is wrong, where, and what to do next, in one line. The command line prints the message alone and
exits with status 1. Errors of the system (OSError) are reported in one line too; where they can be foreseen, an RvrtError
names a better remedy. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import re


class RvrtError(Exception):
    """The request cannot be carried out; the message names the remedy."""


class OptionError(RvrtError, ValueError):
    """An option has a value that cannot be used; raised before any work starts."""


class WeightsError(RvrtError):
    """A weights file is missing, damaged or belongs to another network."""


class MediaError(RvrtError):
    """A video, image or container cannot be read or written."""


class OutOfMemoryError(RvrtError):
    """The device has no memory left for a call of this size; a smaller tile or window may fit."""


def in_one_line(error: RvrtError | OSError) -> str:
    """The line that a user reads for an error."""
    if isinstance(error, OSError):
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        where = f"{', '.join(names)}: " if names else ""
        text = f"{where}{error.strerror or error}; check names, permissions and disks, and run it again"
    else:
        text = str(error)
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """`text` with control characters escaped: a file name may hold some that color, move or break a terminal's line."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda sign: sign[0].encode("unicode_escape").decode(), text)
