"""The rules of the house, executed: arrows, purity, reachability, lengths, documentation, nothing unwired.

A list in this file is a debt or a decision that can be seen: it may shrink, and a row no longer needed fails too.
"""

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("nodedb_node", "workers")
COLUMNS = 120  # of Python; C's comments beside code get a few more
C_COLUMNS = 130
FUNCTION_LINES = 70
HEADER_LINES = 120

# Who may import whom; csrc (nodedb_node._native) imports nobody.
ARROWS = {"nodedb_node": {"nodedb_node"}, "workers": {"workers", "nodedb_node"}}

# What only files that touch the world may import.
WORLD_MODULES = {"asyncio", "os", "random", "secrets", "select", "signal", "socket", "subprocess", "threading", "time"}
WORLD_MODULES |= {"uvloop"}

# Started by name: from the command line's table, or by the supervisor.
ENTRIES = {"nodedb_node.__main__", "nodedb_node.control.__main__", "workers.__main__", "workers.redistribute"}

# Functions above the limit: (file, name) -> lines. They may only shrink.
LONG_FUNCTIONS: dict[tuple[str, str], int] = {}

# Words of other places than this project.
FOREIGN = re.compile(r"\b(todo|fixme|xxx|hack|pypi\.org|pythonhosted|debian\.org)\b|/work/|/root/", re.IGNORECASE)


@cache
def modules() -> dict[str, Path]:
    """Every module of the two packages by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def tracked() -> list[Path]:
    """The project's own text files."""
    kinds = {".py", ".c", ".h", ".md", ".toml", ".txt", ".pyi"}
    roots = [ROOT / name for name in (*PACKAGES, "csrc", "tests", "tools", "docs", ".ci")]
    files = [path for root in roots for path in sorted(root.rglob("*")) if path.is_file()]
    files += [path for path in sorted(ROOT.iterdir()) if path.is_file()]
    scripts = [path for path in files if path.suffix == "" and path.parent.name in ("tools", ".ci")]
    return [path for path in files if path.suffix in kinds and path.name != "_native.c"] + scripts


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names imported anywhere in a file; `from a import b` gives a and a.b."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module or "", node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def is_world(path: Path) -> bool:
    """A file that touches the world says so in its docstring."""
    return "World file" in (ast.get_docstring(tree(path)) or "")


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_import_arrows() -> None:
    bad = [
        f"{place(path)}:{line}: {name}"
        for module, path in modules().items()
        for name, line in imports(path)
        if name.partition(".")[0] in {*PACKAGES, "tools", "tests"}
        and name.partition(".")[0] not in ARROWS[module.partition(".")[0]]
    ]
    assert not bad


def test_cores_do_not_touch_the_world() -> None:
    bad = [
        f"{place(path)}:{line}: imports {name}"
        for path in modules().values()
        if not is_world(path) and path.name != "__main__.py"
        for name, line in imports(path)
        if name.partition(".")[0] in WORLD_MODULES
    ]
    assert not bad, "say 'World file' in the module's docstring, or push the value in as an argument"


def test_a_core_does_not_read_files() -> None:
    bad = [
        f"{place(path)}:{node.lineno}"
        for path in modules().values()
        if not is_world(path)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("open", "print", "input")
    ]
    assert not bad


def test_every_module_says_what_it_is() -> None:
    bad = [place(path) for path in modules().values() if len(ast.get_docstring(tree(path)) or "") < 30]
    assert not bad


def test_every_module_is_reachable_from_an_entry_point() -> None:
    known = modules()
    # A verb is imported by its name in the command line's table, a command family by its name in the workers' list.
    named = {f"nodedb_node.cli.{verb}" for verb in verbs()}
    reached: set[str] = set()
    todo = [name for name in (*ENTRIES, *named) if name in known]
    while todo:
        name = todo.pop()
        if name in reached:
            continue
        reached.add(name)
        todo += [name.rpartition(".")[0]] if name.rpartition(".")[0] in known else []
        todo += [other for other, _ in imports(known[name]) if other in known]
        todo += [word for word in strings(known[name]) if word in known]
    assert not sorted(name for name in set(known) - reached)


def verbs() -> list[str]:
    from nodedb_node.cli.main import VERBS

    return list(VERBS)


def strings(path: Path) -> Iterator[str]:
    """Text constants: modules imported or started by name, as the supervisor does."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
            yield f"{node.value}.__main__"


def test_every_verb_has_a_file() -> None:
    assert [verb for verb in verbs() if f"nodedb_node.cli.{verb}" not in modules()] == []


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


# A C function of this project starts in column 0 with its type, and ends with a brace in column 0.
C_FUNCTION = re.compile(
    r"^(?!typedef|struct|enum|union|static const|const|#)[a-z][\w\s\*]*?\b(\w+)\([^;{}]*\)\s*\{\n(.*?)^\}", re.M | re.S
)


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    for match in C_FUNCTION.finditer(path.read_text()):
        yield match[1], match[0].count("\n") + 1


def test_functions_are_short() -> None:
    found: dict[tuple[str, str], int] = {}
    for path in [*modules().values(), *sorted((ROOT / "csrc").glob("[!_]*.c"))]:
        for name, lines in functions(path) if path.suffix == ".py" else c_functions(path):
            if lines > FUNCTION_LINES:
                found[place(path), name] = lines
    grown = {key: lines for key, lines in found.items() if lines > LONG_FUNCTIONS.get(key, FUNCTION_LINES)}
    assert not grown, f"above {FUNCTION_LINES} lines or longer than listed"
    slack = {key: lines for key, lines in LONG_FUNCTIONS.items() if found.get(key, 0) != lines}
    assert not slack, "shrunk: write the new length into the list, or take the row out"


# Files with lines above the limit: how many; they may only shrink.
LONG_LINES: dict[str, int] = {
    "csrc/crc32c.h": 1,
    "csrc/engine.h": 3,
    "csrc/num.h": 1,
    "csrc/resp.h": 1,
    "csrc/wal.h": 1,
    "tests/admin/test_app.py": 1,
    "tests/c/test_wal.c": 1,
}


def test_the_walk_of_a_write_names_functions_where_they_are() -> None:
    walk = (ROOT / "ARCHITECTURE.md").read_text().partition("## One write through")[2].partition("\n## ")[0]
    named = re.findall(r"`([A-Za-z_.]+)`(?: and `([A-Za-z_.]+)`)?\s\(([a-z_/]+\.(?:py|c))\)", walk)
    assert len(named) > 40
    for first, second, file in named:
        text = (ROOT / file).read_text()
        for name in (first, second):
            word = name.rpartition(".")[2]
            defined = rf"(def|class) {word}\b" if file.endswith(".py") else rf"^[a-z].*\b{word}\("
            assert not name or re.search(defined, text, re.MULTILINE), f"{name} is not in {file}"


def test_lines_are_short() -> None:
    found: dict[str, int] = {}
    for path in tracked():
        if path.suffix in (".c", ".h", ".py", ""):
            limit = C_COLUMNS if path.suffix in (".c", ".h") else COLUMNS
            long = sum(len(line) > limit for line in path.read_text().splitlines())
            if long:
                found[place(path)] = long
    assert {name: count for name, count in found.items() if count > LONG_LINES.get(name, 0)} == {}
    slack = {name: found.get(name, 0) for name, count in LONG_LINES.items() if found.get(name, 0) < count}
    assert not slack, "shrunk: write the new count into the list, or take the row out"


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").glob("*.h")), ids=lambda path: path.name)
def test_a_header_is_one_page(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("/* " + path.name), "a header starts with its name and what it is"
    length = text.count("\n")
    assert length <= LONG_HEADERS.get(path.name, HEADER_LINES), f"{length} lines"
    assert length >= LONG_HEADERS.get(path.name, 0), f"shrunk to {length} lines: so says the list, or has no row"


# Headers above the limit; they may only shrink.
LONG_HEADERS: dict[str, int] = {"engine.h": 146, "engine_int.h": 152, "store.h": 143}


# Settings without a reader; the set may only shrink.
UNREAD_SETTINGS: set[str] = set()


def test_every_setting_is_read_somewhere() -> None:
    from nodedb_node.config import keys

    texts = [path.read_text() for name, path in modules().items() if name != "nodedb_node.config"]
    unread = [f"[{key.section}] {key.name}" for key in keys() if not any(reads(text, key) for text in texts)]
    assert not set(unread) - UNREAD_SETTINGS


def reads(text: str, key) -> bool:  # type: ignore[no-untyped-def]
    """`config.section.key`, or `.key` in a file that takes the section apart; binds are read by properties."""
    if key.name == "bind":
        return key.section == "node" or f"{key.section}_bind" in text
    section = re.search(rf"\.{key.section}\b|\b{key.section.capitalize()}Section\b", text)
    return bool(section and re.search(rf"\.{key.name}\b", text))


def counters() -> list[str]:
    """Fields of nd_metrics."""
    struct = re.search(r"typedef struct nd_metrics \{(.*?)\} nd_metrics;", (ROOT / "csrc/metrics.h").read_text(), re.S)
    assert struct
    body = re.sub(r"/\*.*?\*/", "", struct[1], flags=re.S)
    return [name.strip() for line in re.findall(r"(?:uint64_t|nd_hist)\s+([^;]+);", body) for name in line.split(",")]


# Counters without a producer; the set may only shrink.
UNPRODUCED_COUNTERS: set[str] = set()


def test_every_counter_has_a_producer() -> None:
    sources = [path.read_text() for path in (ROOT / "csrc").glob("*.c") if path.name != "_native.c"]
    sources += [path.read_text() for path in modules().values()]
    produced = "\n".join(sources)
    missing = [
        name
        for name in counters()
        if not re.search(
            rf"(?:->|\.){name}\s*(?:(?:,[^=\n]*)?=[^=]|\+=|-=|\+\+|--)|\+\+\s*\w+(?:->|\.){name}\b", produced
        )
        and not re.search(rf'(?:_observe|histogram)\([^)]*"{name}"', produced)
        and not re.search(rf"nd_hist_add\(&[\w>.\-\[\]]*{name}\b", produced)
    ]
    assert not set(missing) - UNPRODUCED_COUNTERS


def test_every_kind_of_error_is_given() -> None:
    from nodedb_node.errors import Kind

    texts = [path.read_text() for name, path in modules().items() if name != "nodedb_node.errors"]
    texts += [path.read_text() for path in (ROOT / "csrc").glob("[!_]*.c")]
    unused = [kind.name for kind in Kind if not any(re.search(rf'Kind\.{kind.name}\b|"{kind.name} ', t) for t in texts)]
    assert not unused


def test_no_foreign_words() -> None:
    bad = [
        f"{place(path)}:{number}: {line.strip()[:80]}"
        for path in tracked()
        if path.name != Path(__file__).name
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert not bad


def test_no_bare_except_and_no_swallowing() -> None:
    bad = []
    for path in modules().values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                nothing = all(isinstance(child, ast.Pass) for child in node.body)
                if node.type is None or nothing:
                    bad.append(f"{place(path)}:{node.lineno}")
    assert not bad, "name the exception and do something, or use contextlib.suppress with the reason"


def test_no_type_ignore_without_its_code() -> None:
    bad = []
    for path in modules().values():
        with tokenize.open(path) as file:
            for token in tokenize.generate_tokens(file.readline):
                if token.type == tokenize.COMMENT and re.search(r"type:\s*ignore(?!\[)", token.string):
                    bad.append(f"{place(path)}:{token.start[0]}")
    assert not bad


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "LICENSE", "docs/configuration.md"])
def test_documents_exist(name: str) -> None:
    assert (ROOT / name).stat().st_size > 500


def test_the_map_is_that_of_the_land() -> None:
    """ARCHITECTURE.md names every package, and no file that is not there; file-formats.md every format described."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = {path.parent for path in modules().values() if path.parent.parent.parent == ROOT}
    assert [path.name for path in sorted(packages) if not re.search(rf"[/ ,]{path.name}/", text)] == []
    roots = ("", "nodedb_node/", "workers/", "docs/", "nodedb_node/transport/")
    named = sorted(set(re.findall(r"\b[\w/]*\w\.(?:py|h|c|md)\b", text)))
    assert [name for name in named if not any((ROOT / root / name).exists() for root in roots)] == []
    formats = (ROOT / "docs/file-formats.md").read_text()
    assert [path.name for path in (ROOT / "docs/formats").glob("*.md") if path.name not in formats] == []


def test_links_between_documents_work() -> None:
    bad = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text()):
            if not (path.parent / target).exists():
                bad.append(f"{place(path)}: {target}")
    assert not bad
