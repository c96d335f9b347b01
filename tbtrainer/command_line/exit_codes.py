"""The exit codes of `tbtrainer`, the same for every command."""

# The command did what it was asked to, and nothing is wrong.
FINE = 0
# What was asked about is bad: the condition holds, the run has a problem, the run failed.
BAD = 1
# The command cannot be carried out as it was given: an unknown option, no such run, no such tag.
# argparse has the same.
USAGE = 2
# An error in tbtrainer itself.
BROKEN = 3
# Ctrl-C, as in a shell.
INTERRUPTED = 130


class UsageError(Exception):
    """The command cannot be carried out as it was given. The message says what to do.

    The message is printed as it is, so it holds no secrets and no control characters.
    """
