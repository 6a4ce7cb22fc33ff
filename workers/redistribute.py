"""`python -m workers.redistribute --boot-fd N`: the rows of one layout into a new one, for another number of workers.

Invariant: the old layout is recovered and checkpointed as its workers would have done, and otherwise left as it is; the
new one is complete and synced when this process ends with code 0. Only then the supervisor switches, by one rename, so
that a death at any moment leaves one whole layout in use. World file: it is a process of its own, started before any
other of the node.
"""

import select
import sys
import time
from contextlib import ExitStack, closing

import msgspec

from nodedb_node import log
from nodedb_node._native import ffi
from nodedb_node.errors import Exit, StartError
from nodedb_node.native.engine import Engine, EngineConfig
from nodedb_node.native.move import Mover, put_group
from nodedb_node.native.store import Store
from nodedb_node.routing.places import groups_of_worker, vshards_of_group, worker_of_group
from nodedb_node.supervisor import child
from nodedb_node.supervisor.boot import Boot
from workers.commands.table import build_cmdtab
from workers.shard.checkpoint import Checkpointer
from workers.shard.recovery import open_log, open_store

MIB = 1 << 20


def main() -> int:
    boot = child.enter(sys.argv)
    began = time.monotonic()
    log.info("redistributing", from_workers=boot.workers, to_workers=boot.to_workers, directory=boot.to_layout_dir)
    try:
        rows = redistribute(boot)
    except StartError as error:
        log.error("not redistributed; the old layout stays", reason=error)
        return error.code.value
    except OSError as error:
        log.error("not redistributed; the old layout stays", error=error)
        return Exit.IO.value
    log.info("redistributed", rows=rows, ms=int((time.monotonic() - began) * 1000))
    return 0


def redistribute(boot: Boot) -> int:
    """Returns the number of rows moved. Idempotent on an empty target."""
    rows = 0
    with ExitStack() as stack:
        targets = [stack.enter_context(_target(boot, worker)) for worker in range(boot.to_workers)]
        for worker in range(boot.workers):
            rows += _move_worker(_as_worker(boot, worker), targets)
            log.info("redistributed a worker", worker=worker, rows=rows)
    return rows


def _as_worker(boot: Boot, worker: int) -> Boot:
    return msgspec.structs.replace(boot, process=worker + 1)


def _target(boot: Boot, worker: int) -> Store:
    """The new layout's store of a worker, owning what it will own."""
    new = msgspec.structs.replace(boot, process=worker + 1, workers=boot.to_workers, layout_dir=boot.to_layout_dir)
    return open_store(new, groups_of_worker(worker, boot.groups, boot.to_workers))


def _move_worker(boot: Boot, targets: list[Store]) -> int:
    """Recover one worker of the old layout, write all it has into its environment, copy from there."""
    groups = groups_of_worker(boot.worker, boot.groups, boot.workers)
    with open_store(boot, groups) as source:
        with closing(_engine(boot, source)) as engine:
            old = open_log(boot, groups, source, engine, _now_us, None)
            for halted, why in old.halted.items():
                line = f"group {halted} is halted: {why}; until then start with {boot.workers} workers, as before"
                raise StartError(Exit.DATA, line)
            limit = boot.config.store.log_bytes_max
            _checkpoint(Checkpointer(source, old, groups, engine.applied, limit), source)
            old.close(mark=True)
        mover, rows = Mover(), 0
        for group in groups:
            target = targets[worker_of_group(group, boot.groups, boot.to_workers)]
            for vshard in vshards_of_group(group, boot.groups):
                rows += mover.copy(source, target, vshard, group)
            put_group(target, group, source.group(group))
        return rows


def _engine(boot: Boot, store: Store) -> Engine:
    """For replay alone: no clients, no rings."""
    config = EngineConfig(
        worker=boot.worker,
        workers=boot.workers,
        groups=boot.groups,
        generation=1,
        connections_max=64,
        deadline_ms=boot.config.clients.deadline_ms,
        output_bytes_max=boot.config.clients.output_bytes_max,
        query_bytes_max=boot.config.clients.query_bytes_max,
        forward_bytes_max=MIB,
        gather_bytes_max=MIB,
        moved=False,
    )
    return Engine(config, store, build_cmdtab(), ffi.new("nd_metrics *"))


def _checkpoint(checkpointer: Checkpointer, store: Store) -> None:
    checkpointer.begin(_now_us())
    while checkpointer.running:
        select.select([store.checkpoint_fd()], [], [])
        if checkpointer.on_thread(_now_us()) is None and not checkpointer.running:
            raise OSError("no disk space for a checkpoint of the old layout")


def _now_us() -> int:
    return time.monotonic_ns() // 1000


if __name__ == "__main__":
    sys.exit(main())
