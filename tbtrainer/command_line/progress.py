"""A progress bar on the terminal's standard error, and nowhere else."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Shorter work shows no bar.
_DELAY_SECONDS = 0.5

# Called with how many bytes are done, and how many there are. If fewer are done than before,
# another pass over the same files has begun.
Advanced = Callable[[int, int], None]


@contextmanager
def progress_bar(title: str) -> Iterator[Advanced | None]:
    """Shows a bar while the block runs, if standard error is a terminal.

    Args:
        title: What is done.

    Yields:
        The function that moves the bar; `None` if there is no bar.
    """
    if not sys.stderr.isatty():
        yield None
        return
    # Not at the top, because `tbtrainer --help` and scripts do without it.
    from tqdm import tqdm

    with tqdm(
        desc=title,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        leave=False,
        delay=_DELAY_SECONDS,
        file=sys.stderr,
        ascii=None if _is_utf8(sys.stderr.encoding) else True,
    ) as bar:

        def advanced(done: int, total: int) -> None:
            if done < bar.n or total != bar.total:
                bar.reset(total)
            bar.update(done - bar.n)

        yield advanced


def _is_utf8(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "") == "utf8"
