"""What a process is told at its start."""

import msgspec
import pytest

from nodedb_node.supervisor.boot import LIVES_BITS, STARTS_BITS
from tests.supervisor.test_background import boot


def test_every_later_life_of_a_process_has_a_higher_number() -> None:
    """The log counted a process's lives with 16 bits and its lane with 20: a peer's session named a generation that no
    acknowledgement had, and the 65,537th life had a number that the node's next start had again."""
    lives_max = (1 << LIVES_BITS) - 1
    order = [(1, 1), (1, 2), (1, 65_537), (1, lives_max), (2, 1), (65_536, 1), ((1 << STARTS_BITS) - 1, lives_max)]
    pattern = boot([[], []])
    lives = [msgspec.structs.replace(pattern, node_generation=start, generation=life).life for start, life in order]
    assert lives == sorted(set(lives))
    assert lives[0] > 0 and lives[-1] < 1 << 53, "exact as a double, too"
    with pytest.raises(AssertionError):
        assert msgspec.structs.replace(pattern, generation=lives_max + 1).life
