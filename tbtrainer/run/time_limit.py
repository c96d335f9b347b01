"""Limits how long a training waits for a file system."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")

# While a run is opened, each operation on its file system is waited for at most this long.
OPEN_SECONDS = 30.0


def while_opening(function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Calls a function as `within` does, with the limit for the opening of a run."""
    return within(OPEN_SECONDS, function, *arguments)


def within(seconds: float, function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Calls a function in a separate thread and waits for it for a limited time.

    Python cannot interrupt a system call on a mount that hangs. So after the limit the thread is
    left running. It is a daemon, so it does not prevent the process from ending.

    Args:
        seconds: The longest wait.
        function: The function. It may continue after the limit, so that must do no harm.
        arguments: Arguments of the function.

    Returns:
        The result of the function.

    Raises:
        TimeoutError: The function did not return in time.
        BaseException: Any error of the function.
    """
    outcome: list[tuple[_Result | None, BaseException | None]] = []

    def call() -> None:
        try:
            outcome.append((function(*arguments), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=call, name="tbtrainer-open-run", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # No more threads can be started: call it here, without a limit.
        return function(*arguments)
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer for {seconds:.0f} seconds")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
