"""The errors that end a process, and their exit codes."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAULT = 1
"""A fault that the user did not cause. A restart may help."""
EXIT_USER = 2
"""The user's mistake: configuration, file, model, device. A restart does not help."""
EXIT_DEVICE = 3
"""A source is missing or was lost. A restart may find it again."""
EXIT_INPUTS = 4
"""Some inputs of a batch could not be read, or not to their end; the output names each of them."""
EXIT_INTERRUPTED = 130
"""Ctrl-C, where the work is not complete and can be resumed."""


def printable(text: str) -> str:
    """`text` on one line, with control characters (terminal escapes, line ends) escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8 (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def needs_extra(extra: str) -> str:
    """What is missing, and how it is installed, after the name of what needs it."""
    return f"needs the extra `{extra}`; pip install 'speech-emotion-pipeline[{extra}]'"


class OneLineError(Exception):
    """An error whose text is one printable line, also if it quotes names from outside."""

    def __str__(self) -> str:
        return printable(super().__str__())


class DeviceError(OneLineError):
    """A source is missing or was lost."""


class UserError(OneLineError):
    """A mistake of the user. The text says what is wrong and how to mend it."""
