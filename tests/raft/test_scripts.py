"""The scripts in testdata: what they print must not change unnoticed.

python -m tests.raft.test_scripts --rewrite      writes the outputs of now; read the difference before committing it
"""

from pathlib import Path

import pytest

from tests.raft.scripts import Script, check, main, scripts

HERE = Path(__file__).parent


@pytest.mark.parametrize("path", scripts(HERE), ids=lambda path: path.stem)
def test_script(path: Path) -> None:
    check(path, Script())


if __name__ == "__main__":
    main(HERE, Script, __doc__)
