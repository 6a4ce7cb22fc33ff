"""Three sources, one table: what wins, what is refused and in which words, and that the documentation is the table."""

import re
from pathlib import Path

import pytest

from nodedb_node.cli.config import document
from nodedb_node.cli.start import KEYS
from nodedb_node.config import (
    BATCH_BYTES_MAX,
    ENTRY_BYTES_MAX,
    VALUE_BYTES_MAX,
    WORKERS_MAX,
    Config,
    ConfigError,
    keys,
    resolve,
    to_toml,
)

ROOT = Path(__file__).resolve().parents[2]


def problems(
    text: str = "", env: dict[str, str] | None = None, flags: dict[str, dict[str, object]] | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(text, "node.toml", env or {}, flags or {})
    return caught.value.problems


def test_nothing_given_is_the_defaults() -> None:
    assert resolve("", "", {}, {}) == Config()


def test_flags_win_over_environment_over_file_over_default() -> None:
    text = "[clients]\nport = 1\nworker_port = 1\n[http]\nport = 1\n"
    env = {"NODEDB_CLIENTS_PORT": "2", "NODEDB_CLIENTS_WORKER_PORT": "2", "PATH": "/bin", "NODEDB_CONFIG": "node.toml"}
    config = resolve(text, "node.toml", env, {"clients": {"port": "3"}})
    assert (config.clients.port, config.clients.worker_port, config.http.port, config.wal.backend) == (3, 2, 1, "auto")


def test_printed_configuration_resolves_to_itself() -> None:
    config = resolve('[node]\ndata_dir = "a \\"b\\" \\\\c"\n[cpu]\nreserved = [1, 2]\npin = false\n', "", {}, {})
    assert config.node.data_dir == 'a "b" \\c'
    assert resolve(to_toml(config), "", {}, {}) == config


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[clients]\nprot = 1", "node.toml line 2: [clients] prot: no such key; did you mean port?"),
        ("\n\n[client]\nport = 1", "node.toml line 4: [client]: no such section; did you mean [clients]?"),
        ("[zzz]", "node.toml line 1: [zzz]: no such section"),
        ("[wal]\nport = 1", "node.toml line 2: [wal] port: no such key; did you mean [clients] port?"),
        (
            "[http]\nport = 1\n[clients]\n\nport = 'x'",
            'node.toml line 5: [clients] port: expected an integer 0..65535, got "x"',
        ),
        ("clients.port = 70000", "node.toml line 1: [clients] port: expected an integer 0..65535, got 70000"),
        ("[cpu]\nworkers = 'all'", 'node.toml line 2: [cpu] workers: expected an integer 1..64 or "auto", got "all"'),
        ("[cpu]\npin = 1", 'node.toml line 2: [cpu] pin: expected true or false or "auto", got 1'),
        ("[cpu]\nnuma = 'yes'", 'node.toml line 2: [cpu] numa: expected true or false, got "yes"'),
        ("[cpu]\nreserved = 3", "node.toml line 2: [cpu] reserved: expected a list of: an integer 0..4095, got 3"),
        ("[clients]\nmode = 'x'", 'node.toml line 2: [clients] mode: expected "forward" or "moved", got "x"'),
        ("[node]\ndata_dir = ''", 'node.toml line 2: [node] data_dir: expected a string that is not empty, got ""'),
        ("port = 1", "node.toml line 1: port: expected a section, [node] for example"),
    ],
)
def test_words_about_a_file(text: str, line: str) -> None:
    assert problems(text) == [line]


def test_not_toml_says_the_line() -> None:
    (line,) = problems("[clients]\nport 1\n")
    assert line.startswith("node.toml: not TOML: ") and "line 2" in line


def test_words_about_the_environment_and_flags() -> None:
    env = {"NODEDB_CLIENTS_PROT": "1", "NODEDB_CPU_NUMA": "maybe"}
    found = problems("", env, {"clients": {"port": "x"}})
    assert found == [
        "NODEDB_CLIENTS_PROT: no such setting; did you mean NODEDB_CLIENTS_PORT?",
        'NODEDB_CPU_NUMA: [cpu] numa: expected true or false, got "maybe"',
        'command line: [clients] port: expected an integer 0..65535, got "x"',
    ]


@pytest.mark.parametrize(
    ("variable", "value", "found"),
    [
        ("NODEDB_CPU_RESERVED", "0, 3", [0, 3]),
        ("NODEDB_CPU_RESERVED", "", []),
        ("NODEDB_CPU_PIN", "false", False),
        ("NODEDB_CPU_PIN", "auto", "auto"),
        ("NODEDB_CPU_WORKERS", "2", 2),
        ("NODEDB_NODE_DATA_DIR", "42", "42"),
    ],
)
def test_values_as_text(variable: str, value: str, found: object) -> None:
    config = resolve("", "", {variable: value}, {})
    _, section, name = variable.lower().split("_", 2)
    assert getattr(getattr(config, section), name) == found


@pytest.mark.parametrize(
    "text",
    [
        "[store]\nmemory_bytes_max = 67108864",
        "[ring]\nbytes = 1048577",
        "[ring]\noverflow_bytes = 1048576",
        "[clients]\nquery_bytes_max = 1048576",
        "[clients]\noutput_bytes_max = 16777216",
        "[supervise]\nbackoff_first_ms = 6000",
        "[cpu]\nreserved = [1]\ncontrol_core = 1",
    ],
)
def test_each_relation_is_checked(text: str) -> None:
    section = re.search(r"\[\w+\]", text)
    (line,) = problems(text)
    assert section and line.startswith(section[0])


def test_every_default_is_within_its_bounds() -> None:
    text = to_toml(Config())
    assert resolve(text, "", {}, {}) == Config()


def test_limits_are_those_of_c() -> None:
    header = (ROOT / "csrc/nd.h").read_text()
    defined = {name: int(value) for name, value in re.findall(r"#define ND_(\w+) (\d+)$", header, re.MULTILINE)}
    assert defined["VALUE_BYTES_MAX"] == VALUE_BYTES_MAX
    assert defined["ENTRY_BYTES_MAX"] == ENTRY_BYTES_MAX
    assert defined["BATCH_BYTES_MAX"] == BATCH_BYTES_MAX
    assert defined["WORKERS_MAX"] == WORKERS_MAX


def test_every_key_has_a_unit_and_a_reason() -> None:
    for key in keys():
        assert key.unit and key.reason, key


def test_the_documentation_is_the_table() -> None:
    written = (ROOT / "docs/configuration.md").read_text()
    assert written == document(), "run: python -m nodedb_node config doc > docs/configuration.md"


def test_the_documentation_names_every_option_of_start() -> None:
    text = document()
    for option, (section, name) in KEYS.items():
        assert re.search(rf"`--{option.replace('_', '-')}`\s\(\[{section}\]\s{name}\)", text), option
