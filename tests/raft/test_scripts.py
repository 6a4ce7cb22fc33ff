"""The scripts in testdata: what they print must not change unnoticed.

python -m tests.raft.test_scripts --rewrite      writes the outputs of now; read the difference before committing it
"""

import sys
from pathlib import Path

import pytest

from tests.raft.scripts import Script, blocks, rewritten, scripts

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", scripts(HERE), ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    machine = Script()
    for _, commands, expected in blocks(path.read_text()):
        if commands:
            assert machine.run(commands) == expected, f"{path.name}: {commands}"


def main() -> None:
    assert sys.argv[1:] == ["--rewrite"], __doc__
    for path in scripts(HERE):
        path.write_text(rewritten(path.read_text(), Script()))


if __name__ == "__main__":
    main()
