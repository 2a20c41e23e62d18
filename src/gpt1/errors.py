"""The two ways a command can end badly, and the exit code of each."""


class UserError(Exception):
    """The request or its data was wrong: exit code 2.

    The message is one line that names the file, row and value at fault and says what to do.
    """

    exit_code = 2


class RunFailed(Exception):
    """The work itself broke while running (a lost device, a loss that is not a number): exit code 1."""

    exit_code = 1
