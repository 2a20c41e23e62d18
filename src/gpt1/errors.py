"""User errors, run-time failures and data warnings, and how a message names a setting."""

import re

# Encloses a setting's name inside a message; see `setting`.
MARK = "\x1f"
# Local copies of what addresses (`s3://bucket/folder`) name, see `name_as`.
_addresses: dict[str, str] = {}


class Gpt1Error(Exception):
    """Base of UserError and RunFailed.

    Messages mark settings with `setting`; `str(error)` names them as Python does (`top_p`), `as_flags` as flags.
    """

    def __str__(self) -> str:
        return spell(super().__str__())

    def as_flags(self) -> str:
        """Return the message with settings named as command-line flags (`--top-p`)."""
        return spell(super().__str__(), flags=True)


class UserError(Gpt1Error, ValueError):
    """The request or its data was wrong: a ValueError in Python, exit code 2 on the command line.

    The message is one line that names the file, row and value at fault and says what to do.
    """


class RunFailed(Gpt1Error):
    """The work itself broke while running (a lost device, a loss that is not finite): exit code 1."""


# Exit code after Ctrl-C, as shells have it.
INTERRUPTED = 130
# Errors of the operating system about a path that the user chose.
WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def exit_code(error: BaseException) -> int:
    """Return the exit code of a process that an error ends: 2 for a wrong request, 130 after Ctrl-C, else 1."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return 2 if isinstance(error, (UserError, *WRONG_PATH)) else 1


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, without the line of C++ that raised it; else the error's class."""
    line = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
    return re.sub(r"^\[\S+:\d+\] ", "", line)


class DataWarning(UserWarning):
    """Rows or labels that make a result misleading, such as texts in both training and validation rows."""


def setting(name: str) -> str:
    """Mark a setting's full name (`optim.lr`) in a message, for `spell` to format when the message is shown."""
    return f"{MARK}{name}{MARK}"


def spell(message: str, flags: bool = False) -> str:
    """Return a message to show: readable, with its settings named as in Python or as command-line flags."""
    named = re.sub(f"{MARK}([^{MARK}]+){MARK}", lambda found: flag(found[1]) if flags else found[1], message)
    return readable(re.sub(r"\\udc([89a-f][0-9a-f])", r"\\x\1", named))  # which is how `repr` writes such a byte


def readable(text: str) -> str:
    r"""Return text for people, in which a byte of a file's name that is not UTF-8 shows as in `caf\xe9`.

    Python turns such a byte into a lone surrogate, which cannot be printed.
    """
    return re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", addressed(text))


def name_as(path: str, address: str) -> None:
    """Let messages and records name `path`, the local copy of what an address names, by the address."""
    _addresses[path] = address


def addressed(text: str) -> str:
    """Return a text with addresses in place of their local copies."""
    for path, address in list(_addresses.items()):
        text = text.replace(path, address)
    return text


def flag(name: str) -> str:
    """Return the command-line flag of a setting: `--optim.matrix-lr` for `optim.matrix_lr`."""
    return "--" + name.rstrip("_").replace("_", "-")
