"""A value is mirrored to Trackio while another thread imports a library of figures.

    python -m tests.trackers.slow_import

Runs in the current directory. The import ends after the mirror has begun to send the value.
"""

import importlib
import sys
import threading
import time
from pathlib import Path

import trackio

from tbtrainer.isolation import Isolation
from tbtrainer.run.mirror import Mirror, Value
from tbtrainer.run.trackio_tracker import TrackioTracker
from tests.limits import HANG_SECONDS

# The library. Its class of figures is there when the import ends.
SLOW = """
import __main__

__main__.begun.set()
__main__.may_end.wait()

class BaseFigure:
    pass
"""
begun, may_end = threading.Event(), threading.Event()


def main() -> None:
    for name, text in (("__init__", ""), ("basedatatypes", SLOW)):
        file = Path("plotly") / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    sys.path.insert(0, str(Path().resolve()))
    run = trackio.init(project="tbtrainer", embed=False)
    mirror = Mirror(TrackioTracker(), Isolation("raise"))
    importing = threading.Thread(target=importlib.import_module, args=("plotly.basedatatypes",))
    importing.start()
    assert begun.wait(HANG_SECONDS)
    mirror.put(Value(run, 3, "loss", 0.5))
    mirror.close(1.0)  # The thread of the mirror has begun to send it.
    may_end.set()
    importing.join()
    while mirror._queue:
        time.sleep(0.01)
    trackio.finish()


if __name__ == "__main__":
    main()
