"""Two power cuts in the suite; python -m tests.process.powercut runs as many as one likes."""

from __future__ import annotations

import pytest

from tests.process import powercut
from tests.process.loopfs import unavailable
from tests.seeds import run_seed


@pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-")
@pytest.mark.parametrize("backend", ["thread", "auto"])
def test_nothing_acknowledged_is_lost_when_power_goes(backend: str) -> None:
    seed = run_seed()
    acked, _, _ = powercut.run(1, seed, settings={"wal.backend": backend})
    assert acked > 0
