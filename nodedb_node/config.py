"""Every setting and limit of a node: one typed table with unit, default, bounds and reason; three sources, flags win.

Invariant: a Config that exists has passed its bounds and the relations between its limits. Reading files and the
environment is the caller's part: this file gets text and mappings. Sizes that are part of a format (key, value,
entry) are not settings; they are in csrc/nd.h, and a test compares the copies below with it.
"""

import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

VALUE_BYTES_MAX = 16 * MIB
ENTRY_BYTES_MAX = 17 * MIB
BATCH_BYTES_MAX = 1 * MIB
WORKERS_MAX = 64  # each pair of processes has a ring: memory and looking at them grow with the square

Port = Annotated[int, Meta(ge=0, le=65535)]
Core = Annotated[int, Meta(ge=0, le=4095)]
Auto = Literal["auto"]


def about(unit: str, reason: str) -> Meta:
    """What a key is measured in and why its default is what it is; docs/configuration.md is made from it."""
    return Meta(title=unit, description=reason)


class NodeSection(Struct, frozen=True):
    """The node as a whole."""

    data_dir: Annotated[str, Meta(min_length=1), about("path", "everything the node keeps is below it")] = (
        "./nodedb-data"
    )
    bind: Annotated[str, Meta(min_length=1), about("address", "loopback until clients authenticate: no open doors")] = (
        "127.0.0.1"
    )
    announce: Annotated[str, about("address", "what CLUSTER SLOTS and MOVED name; empty = the bind address")] = ""


class ClientsSection(Struct, frozen=True):
    """Connections that speak the Redis protocol."""

    bind: Annotated[str, about("address", "empty = [node] bind")] = ""
    port: Annotated[Port, about("port", "Redis's own; shared by all workers; 0 = any free one")] = 6379
    worker_port: Annotated[Port, about("port", "worker i listens on worker_port + i; 0 = any free ones")] = 7000
    mode: Annotated[
        Literal["forward", "moved"], about("choice", "the shared port forwards a foreign key or answers MOVED")
    ] = "forward"
    connections_max: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        about("connections", "of the node, as Redis's maxclients; each worker takes its share"),
    ] = 10_000
    query_bytes_max: Annotated[
        int, Meta(ge=1 * MIB, le=1 * GIB), about("bytes", "one connection's unparsed input; holds the largest command")
    ] = 32 * MIB
    output_bytes_max: Annotated[
        int,
        Meta(ge=1 * MIB, le=4 * GIB),
        about(
            "bytes",
            "one connection's unread replies; a pipeline waits before it, and a client that then reads nothing for "
            "deadline_ms, or is owed more, is closed",
        ),
    ] = 64 * MIB
    password_file: Annotated[
        str,
        about("path", "the default user's password, on the first line; set at each start; empty = left as it is"),
    ] = ""
    users_file: Annotated[
        str,
        about("path", "users of the first start, as in Redis's ACL file; later starts keep what ACL SETUSER made"),
    ] = ""
    protected_mode: Annotated[
        bool, about("flag", "while the default user needs no password, clients come from loopback only")
    ] = True
    auth_failures_max: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        about("failures", "per minute, address and worker; above it AUTH is refused unread for a while"),
    ] = 60
    auth_ms: Annotated[
        int,
        Meta(ge=0, le=3_600_000),
        about("ms", "a connection that has not authenticated by then is closed; 0 = never"),
    ] = 60_000
    tls: Annotated[
        Literal["off", "both", "only"],
        about("choice", "both = TLS on tls_port and tls_worker_port beside the plain ports; only = no port is plain"),
    ] = "off"
    tls_port: Annotated[Port, about("port", "as port, for TLS where plain ports exist too; 0 = any free one")] = 6380
    tls_worker_port: Annotated[
        Port, about("port", "as worker_port, for TLS where plain ports exist too; 0 = any free ones")
    ] = 8000
    tls_cert: Annotated[str, about("path", "PEM: the certificate and those between it and its authority")] = ""
    tls_key: Annotated[str, about("path", "PEM: the certificate's key, without a passphrase")] = ""
    tls_ca: Annotated[str, about("path", "PEM: authorities of clients' certificates")] = ""
    tls_crl: Annotated[
        str, about("path", "PEM: a revocation list of each authority of tls_ca; empty = no certificate is revoked")
    ] = ""
    tls_auth_clients: Annotated[
        Literal["no", "optional", "yes"],
        about("choice", "whether a client must show a certificate of tls_ca; passwords are asked all the same"),
    ] = "no"
    tls_handshake_ms: Annotated[
        int, Meta(ge=100, le=60_000), about("ms", "a TLS handshake not finished by then is ended")
    ] = 4_000
    tls_handshakes_max: Annotated[
        int, Meta(ge=1, le=100_000), about("handshakes", "at one time and worker; more are closed at the door")
    ] = 256
    deadline_ms: Annotated[
        int, Meta(ge=10, le=600_000), about("ms", "a command not done by then is answered -DEADLINE or -UNKNOWN")
    ] = 4_000


class HttpSection(Struct, frozen=True):
    """Health, metrics and the admin page, served by the control process."""

    bind: Annotated[str, about("address", "empty = [node] bind")] = ""
    port: Annotated[Port, about("port", "0 = any free one")] = 6480
    token_file: Annotated[
        str,
        about("path", "the token asked of everyone but loopback, at least 16 bytes; empty = admin.token in data_dir"),
    ] = ""
    tls_cert: Annotated[str, about("path", "PEM: HTTPS with this certificate; empty = plain HTTP")] = ""
    tls_key: Annotated[str, about("path", "PEM: the certificate's key, without a passphrase")] = ""


class PeersSection(Struct, frozen=True):
    """Connections between the nodes of a cluster: lanes over QUIC, one UDP port per process."""

    bind: Annotated[str, about("address", "empty = [node] bind")] = ""
    port: Annotated[Port, about("port", "UDP, of the control process; 0 = any free one")] = 6490
    worker_port: Annotated[Port, about("port", "UDP, worker i on worker_port + i; 0 = any free ones")] = 6500
    socket_bytes: Annotated[
        int,
        Meta(ge=128 * KIB, le=256 * MIB),
        about("bytes", "send and receive buffer of a UDP socket; above net.core.rmem_max only with CAP_NET_ADMIN"),
    ] = 8 * MIB
    gso: Annotated[bool, about("flag", "the kernel cuts and joins datagrams; switched off when a driver fails")] = True
    security: Annotated[
        Literal["mtls", "insecure"],
        about("choice", "mtls = every peer shows a certificate; insecure = nobody is checked: anybody can be a peer"),
    ] = "mtls"
    certificate_days: Annotated[
        int, Meta(ge=1, le=825), about("days", "a node's certificate; renewed after two thirds, without an operator")
    ] = 30


class CpuSection(Struct, frozen=True):
    """Which cores the node uses, and how."""

    workers: Annotated[
        Annotated[int, Meta(ge=1, le=WORKERS_MAX)] | Auto,
        about("processes", "auto = allowed cores - 1, at least 1, at most one per group of the data directory"),
    ] = "auto"
    pin: Annotated[bool | Auto, about("choice", "auto = pin when a core is left for control")] = "auto"
    control_core: Annotated[Core | Auto, about("core", "auto = the first allowed one that no worker needs")] = "auto"
    smt: Annotated[
        Literal["all", "one"], about("choice", "one = one worker per physical core; all = per hardware thread")
    ] = "one"
    numa: Annotated[bool, about("flag", "bind a pinned worker's memory to its core's node")] = True
    reserved: Annotated[list[Core], about("cores", "left to the system and to other programs")] = []


class WalSection(Struct, frozen=True):
    """The write-ahead log of each worker."""

    segment_bytes: Annotated[
        int, Meta(ge=20 * MIB, le=1 * GIB), about("bytes", "zero-filled before use; recycled when compaction passed it")
    ] = 64 * MIB
    backend: Annotated[
        Literal["auto", "uring", "thread"], about("choice", "auto = io_uring where it is allowed, else a thread")
    ] = "auto"
    floor_bytes: Annotated[
        int,
        Meta(ge=1 * MIB, le=1024 * GIB),
        about("bytes", "free disk space below which writes are refused; deletes and the log's own marks go on"),
    ] = 128 * MIB


class StoreSection(Struct, frozen=True):
    """Rows in memory and on disk, of each worker."""

    dirty_bytes_max: Annotated[
        int, Meta(ge=1 * MIB, le=64 * GIB), about("bytes", "changed rows that start a checkpoint, per worker")
    ] = 64 * MIB
    memory_bytes_max: Annotated[
        Annotated[int, Meta(ge=16 * MIB, le=16_384 * GIB)] | Auto,
        about(
            "bytes",
            "rows kept in memory per worker; auto = half of what machine and cgroup allow, shared by the workers",
        ),
    ] = "auto"
    log_bytes_max: Annotated[
        int,
        Meta(ge=1 * MIB, le=1024 * GIB),
        about("bytes", "closed log segments that start a checkpoint, per worker; bounds what a restart reads"),
    ] = 256 * MIB
    txn_rows_max: Annotated[
        int, Meta(ge=100, le=1_000_000), about("rows", "of one checkpoint transaction; bounds its stall of the disk")
    ] = 10_000
    txn_bytes_max: Annotated[
        int,
        Meta(ge=64 * KIB, le=1 * GIB),
        about("bytes", "of one checkpoint transaction; a vShard with more changed rows is staged and written twice"),
    ] = 32 * MIB
    pause_us: Annotated[
        int, Meta(ge=0, le=1_000_000), about("µs", "rest between checkpoint transactions, left to the log's syncs")
    ] = 1_000


class RingSection(Struct, frozen=True):
    """Shared-memory rings between the processes of the node."""

    bytes: Annotated[
        int,
        Meta(ge=256 * KIB, le=64 * MIB),
        about("bytes", "one ring; there is one per ordered pair of processes; power of two"),
    ] = 1 * MIB
    overflow_bytes: Annotated[
        int,
        Meta(ge=1 * MIB, le=4 * GIB),
        about(
            "bytes",
            "waiting for a full ring, per peer; clients whose commands for a peer are above half of it unanswered wait",
        ),
    ] = 64 * MIB


class SuperviseSection(Struct, frozen=True):
    """How the supervisor treats its children."""

    backoff_first_ms: Annotated[
        int, Meta(ge=1, le=60_000), about("ms", "wait before the second restart in a row; the first is at once")
    ] = 100
    backoff_max_ms: Annotated[int, Meta(ge=1, le=600_000), about("ms", "the wait doubles up to this")] = 5_000
    stable_ms: Annotated[
        int, Meta(ge=100, le=3_600_000), about("ms", "a child that lived this long starts with no wait again")
    ] = 10_000
    stall_ms: Annotated[
        int,
        Meta(ge=1_000, le=600_000),
        about("ms", "a child without a loop turn for this long is killed and restarted"),
    ] = 10_000
    drain_ms: Annotated[
        int, Meta(ge=100, le=60_000), about("ms", "children that have not ended this long after SIGTERM are killed")
    ] = 8_000


class LogSection(Struct, frozen=True):
    """The log, logfmt on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], about("choice", "info tells starts, stops, faults")
    ] = "info"


class Config(Struct, frozen=True):
    """A node's configuration. Field names are the section names of the file."""

    node: NodeSection = NodeSection()
    clients: ClientsSection = ClientsSection()
    http: HttpSection = HttpSection()
    peers: PeersSection = PeersSection()
    cpu: CpuSection = CpuSection()
    wal: WalSection = WalSection()
    store: StoreSection = StoreSection()
    ring: RingSection = RingSection()
    supervise: SuperviseSection = SuperviseSection()
    log: LogSection = LogSection()

    @property
    def clients_bind(self) -> str:
        return self.clients.bind or self.node.bind

    @property
    def peers_bind(self) -> str:
        return self.peers.bind or self.node.bind

    @property
    def http_bind(self) -> str:
        return self.http.bind or self.node.bind


class ConfigError(ValueError):
    """Configuration that cannot be used; one line per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


Sections = dict[str, dict[str, object]]


class Key(NamedTuple):
    """One row of the table, for docs, `config print` and messages."""

    section: str
    name: str
    hint: Any
    default: object
    unit: str
    reason: str

    @property
    def expected(self) -> str:
        return _expected(self.hint)


SECTIONS: dict[str, type[Struct]] = get_type_hints(Config)
_HINTS = {name: get_type_hints(section, include_extras=True) for name, section in SECTIONS.items()}


def keys() -> Iterator[Key]:
    """Every key in the order of the table."""
    for section, hints in _HINTS.items():
        defaults = SECTIONS[section]()
        for name, hint in hints.items():
            meta = next(m for m in hint.__metadata__ if m.title is not None)
            yield Key(section, name, hint, getattr(defaults, name), meta.title, meta.description)


def resolve(text: str, file: str, env: Mapping[str, str], flags: Sections) -> Config:
    """Defaults < file < environment < flags; raises ConfigError with every problem found, not only the first."""
    problems: list[str] = []
    values: Sections = {name: {} for name in SECTIONS}
    for source in (_from_file(text, file, problems), _from_env(env, problems), _from_flags(flags, problems)):
        for section, pairs in source.items():
            values[section].update(pairs)
    if not problems:
        config = msgspec.convert(values, Config)
        problems = list(relations(config))
        if not problems:
            return config
    raise ConfigError(problems)


def relations(config: Config) -> Iterator[str]:
    """How limits depend on each other; yields a line for each relation that does not hold."""
    clients, wal, store, ring, supervise = config.clients, config.wal, config.store, config.ring, config.supervise
    rules = (
        (clients.query_bytes_max >= ENTRY_BYTES_MAX, "[clients] query_bytes_max must hold the largest command, 17 MiB"),
        (clients.output_bytes_max >= ENTRY_BYTES_MAX, "[clients] output_bytes_max must hold the largest value, 17 MiB"),
        (
            wal.segment_bytes > ENTRY_BYTES_MAX + BATCH_BYTES_MAX,
            "[wal] segment_bytes must hold the largest entry, 17 MiB",
        ),
        (
            (config.http.tls_cert == "") == (config.http.tls_key == ""),
            "[http] tls_cert and tls_key go together",
        ),
        (
            clients.tls == "off" or (clients.tls_cert != "" and clients.tls_key != ""),
            "[clients] tls needs tls_cert and tls_key",
        ),
        (
            clients.tls == "off" or clients.tls_auth_clients == "no" or clients.tls_ca != "",
            "[clients] tls_auth_clients needs tls_ca",
        ),
        (
            clients.tls_crl == "" or (clients.tls != "off" and clients.tls_auth_clients != "no"),
            "[clients] tls_crl needs tls and tls_auth_clients",
        ),
        (ring.bytes & (ring.bytes - 1) == 0, "[ring] bytes must be a power of two"),
        (
            ring.overflow_bytes >= 2 * ENTRY_BYTES_MAX,
            "[ring] overflow_bytes must hold the largest entry twice, 34 MiB: half is for commands, half for replies",
        ),
        (
            store.memory_bytes_max == "auto" or store.memory_bytes_max >= 2 * store.dirty_bytes_max,
            "[store] memory_bytes_max must be at least twice dirty_bytes_max: one half fills while one is written",
        ),
        (
            supervise.backoff_first_ms <= supervise.backoff_max_ms,
            "[supervise] backoff_first_ms must not be above backoff_max_ms",
        ),
        (
            config.cpu.control_core == "auto" or config.cpu.control_core not in config.cpu.reserved,
            "[cpu] control_core must not be one of the reserved cores",
        ),
    )
    return (line for holds, line in rules if not holds)


def _from_file(text: str, file: str, problems: list[str]) -> Sections:
    if not text.strip():
        return {}
    import tomllib  # only where a file is used: it takes as long to import as a node takes to read its directory

    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{file}: not TOML: {error}")
        return {}
    values: Sections = {}
    for section, pairs in raw.items():
        where = f"{file} line {_line_of(text, section, None)}"
        if not isinstance(pairs, dict):
            problems.append(
                f"{where}: {section}: expected a section, [{_near(section, SECTIONS) or 'node'}] for example"
            )
            continue
        for name, value in pairs.items():
            where = f"{file} line {_line_of(text, section, name)}"
            _take(values, section, name, value, where, problems)
        if not pairs and section not in SECTIONS:
            _take(values, section, "", None, where, problems)
    return values


# Variables with the prefix that are not settings.
ENV_OTHER = frozenset({"NODEDB_CONFIG", "NODEDB_TEST_SEED"})


def _from_env(env: Mapping[str, str], problems: list[str]) -> Sections:
    values: Sections = {}
    names = {f"NODEDB_{key.section}_{key.name}".upper(): key for key in keys()}
    for variable in sorted(env):
        if not variable.startswith("NODEDB_") or variable in ENV_OTHER:
            continue
        key = names.get(variable)
        if key is None:
            near = _near(variable, names)
            problems.append(f"{variable}: no such setting" + (f"; did you mean {near}?" if near else ""))
        else:
            _take(values, key.section, key.name, _parse(env[variable], key.hint), variable, problems)
    return values


def _from_flags(flags: Sections, problems: list[str]) -> Sections:
    values: Sections = {}
    for section, pairs in flags.items():
        for name, value in pairs.items():
            value = _parse(value, _HINTS[section][name]) if isinstance(value, str) else value
            _take(values, section, name, value, "command line", problems)
    return values


def _take(values: Sections, section: str, name: str, value: object, where: str, problems: list[str]) -> None:
    """Check one value and keep it, or add a line that says where, what was expected, and the nearest known name."""
    if section not in SECTIONS:
        near = _near(section, SECTIONS)
        problems.append(f"{where}: [{section}]: no such section" + (f"; did you mean [{near}]?" if near else ""))
        return
    hint = _HINTS[section].get(name)
    if hint is None:
        near = _near_key(section, name)
        problems.append(f"{where}: [{section}] {name}: no such key" + (f"; did you mean {near}?" if near else ""))
        return
    try:
        values.setdefault(section, {})[name] = msgspec.convert(value, hint)
    except msgspec.ValidationError:
        problems.append(f"{where}: [{section}] {name}: expected {_expected(hint)}, got {_shown(value)}")


def _near(word: str, words: Mapping[str, object]) -> str | None:
    import difflib  # only for messages

    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return found[0] if found else None


def _near_key(section: str, name: str) -> str | None:
    """The nearest key of the section, or the same key of another one."""
    near = _near(name, _HINTS[section])
    if near:
        return near
    elsewhere = [other for other, hints in _HINTS.items() if name in hints]
    return f"[{elsewhere[0]}] {name}" if elsewhere else None


def _line_of(text: str, section: str, name: str | None) -> int:
    """The line of a key (or of its section's header, or of a dotted key); 1-based, 1 when it cannot be told."""
    header = re.compile(rf"\s*\[\s*[\"']?{re.escape(section)}[\"']?\s*\]")
    key = None if name is None else re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=")
    dotted = re.compile(rf"\s*{re.escape(section)}\s*(\.\s*{re.escape(name or '')}|=)")
    inside, found = False, 1
    for number, line in enumerate(text.splitlines(), 1):
        if header.match(line):
            inside, found = True, number
        elif re.match(r"\s*\[", line):
            inside = False
        elif (inside and key is not None and key.match(line)) or (not inside and dotted.match(line)):
            return number
    return found


def _members(hint: Any) -> list[Any]:
    """The plain types, Literals and Annotated bounds that a hint allows."""
    if get_origin(hint) is Annotated:
        inner, *metas = get_args(hint)
        bounds = [m for m in metas if m.ge is not None or m.min_length is not None]
        found = _members(inner)
        return [Annotated[m, bounds[0]] if bounds and get_origin(m) is not Annotated else m for m in found]
    if get_origin(hint) in (Union, UnionType):
        return [member for arg in get_args(hint) for member in _members(arg)]
    return [hint]


def _expected(hint: Any) -> str:
    words = []
    for member in _members(hint):
        base, bound = (member.__origin__, member.__metadata__[0]) if get_origin(member) is Annotated else (member, None)
        if get_origin(base) is Literal:
            words += [f'"{choice}"' for choice in get_args(base)]
        elif base is bool:
            words.append("true or false")
        elif base is int:
            words.append(f"an integer {bound.ge}..{bound.le}" if bound else "an integer")
        elif get_origin(base) is list:
            words.append(f"a list of: {_expected(get_args(base)[0])}")
        else:
            words.append("a string that is not empty" if bound else "a string")
    return " or ".join(words)


def _parse(text: str, hint: Any) -> object:
    """A value as a variable or a flag spells it; what does not parse stays text and fails the check by type."""
    bases = [m.__origin__ if get_origin(m) is Annotated else m for m in _members(hint)]
    if bool in bases and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if int in bases and re.fullmatch(r"-?\d+", text):
        return int(text)
    if any(get_origin(base) is list for base in bases):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        return [int(part) if part.isdecimal() else part for part in parts]
    return text


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def to_toml(config: Config) -> str:
    """The configuration as a file that resolves to it, each key with its unit and reason."""
    lines = []
    for section, hints in _HINTS.items():
        lines.append(f"[{section}]")
        for key in keys():
            if key.section == section and key.name in hints:
                value = getattr(getattr(config, section), key.name)
                lines.append(f"{key.name} = {toml_value(value)}  # {key.unit}; {key.reason}")
        lines.append("")
    return "\n".join(lines)


def toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return str(value)
