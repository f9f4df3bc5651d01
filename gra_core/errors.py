"""Errors whose message is written for the person who uses the editor.

Every message is one line, says what is wrong and what to do about it. The command line prints it and
exits with code 2; the page shows it in place of a result.
"""

import contextlib
from collections.abc import Iterator


class GRAError(Exception):
    """Base of all errors that the editor raises on purpose."""


class UnreadableImageError(GRAError):
    """The file is not a picture, is damaged, or is too large to open."""


class NoFaceError(GRAError):
    """No face was found in the photo, or the face asked for does not exist."""


class FaceTooSmallError(GRAError):
    """The face has too few pixels to edit."""


class UnknownEditError(GRAError):
    """No edit has the given name."""


class StrengthError(GRAError):
    """A slider value is not a number or lies outside the range of its slider."""


class SettingsError(GRAError):
    """A file of slider settings cannot be used."""


class CheckpointError(GRAError):
    """A weights file is missing, damaged, or does not fit the code."""


class DirectionFileError(GRAError):
    """A file brought as an edit direction is damaged, unsafe, or holds no direction."""


class MissingPackageError(GRAError):
    """An optional package, or what it needs to download, is not there."""


class BusyError(GRAError):
    """The machine has too much in hand; the same request can be answered later."""


@contextlib.contextmanager
def refusing(kind: type[GRAError], message: str) -> Iterator[None]:
    """The boundary between files that people bring and this program: whatever the block raises becomes our error.

    Readers of damaged files raise nearly every built-in exception. Errors that are ours already pass as they are.

    Args:
        kind: of the error.
        message: its sentence.
    """
    try:
        yield
    except GRAError:
        raise
    except Exception as error:
        raise kind(message) from error
