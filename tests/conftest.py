"""Settings of every test: no hub, an empty cache, one thread per worker, no time limits but one."""

import atexit
import os
import shutil
import tempfile
from typing import Any

import pytest

# Set before torch and transformers are imported anywhere. Tests run with local data only; a name
# that would need a hub then fails at once instead of after a time-out.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Nothing that a person has in their cache makes a test pass, and no test leaves anything there.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="tbtrainer-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Every worker is one process; torch would otherwise start as many threads as there are cores in
    # each of them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# A slow machine fails no property: neither one example nor the making of examples has a time limit.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Triton's interpreter runs the kernels where there is no GPU. It is chosen before the import.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each file to one worker, so that its fixtures are made once.

    The files that start several processes go to one worker, one after another: each of their tests
    takes both processors by itself.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "distributed" if file.startswith("tests/distributed/") else file

    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests that need a GPU where there is none."""
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu and not torch.cuda.is_available():
        config.hook.pytest_deselected(items=needs_gpu)
        items[:] = [item for item in items if item not in needs_gpu]
