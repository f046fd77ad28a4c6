"""The errors that reach a user as one line on stderr, without a traceback."""


class InputError(Exception):
    """What the user gave cannot be used. Ends a tool with exit code 2.

    The message is one line: file, line or key, the value found, and what to do about it.
    """

    exit_code = 2


class RunError(Exception):
    """The run itself went wrong (a loss that is not finite, a full disk). Ends a tool with exit code 1."""

    exit_code = 1


class Interrupted(Exception):
    """A signal has ended the run, and its state is saved.

    Args:
        message (str): where, and how to go on.
        exit_code (int): of the tool.
    """

    def __init__(self, message, exit_code):
        super().__init__(message)
        self.exit_code = exit_code


def nearest(word, known):
    """'did you mean' for error lines.

    Args:
        word (str): what was given.
        known (Iterable[str]): the words that would have been right.

    Returns:
        str: ' Did you mean "x"?' with the closest known word, or '' when none is close.
    """
    import difflib
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f' Did you mean "{close[0]}"?' if close else ''
