"""Errors that a user can act on.

Every message says what is wrong, where, and what to do next, in one line. The command line prints the message alone and
exits with status 1; anything that is not an RvrtError is a bug and keeps its traceback.
"""


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
