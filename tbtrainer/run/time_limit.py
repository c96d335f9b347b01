"""A limit on the time that a training waits for a file system."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def within(seconds: float, function: Callable[..., _Result], *arguments: Any) -> _Result:
    """Calls a function in a thread of its own and waits for it a limited time.

    Python cannot interrupt a system call on a mount that hangs. The thread is then left behind. It
    is a daemon, so it does not keep the process from ending.

    Args:
        seconds: The longest wait.
        function: What is called. What it does after the limit must do no harm.
        arguments: Its arguments.

    Returns:
        What the function returns.

    Raises:
        TimeoutError: It has not returned in time.
        BaseException: What the function raises.
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
    except RuntimeError:  # The system has no more threads.
        return function(*arguments)
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer for {seconds:.0f} seconds")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
