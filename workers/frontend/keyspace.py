"""Handlers of commands about all keys: DBSIZE, KEYS, SCAN, RANDOMKEY, FLUSHALL, and of a slot's keys.

On the shared port they cover the node, on a worker's port that worker. Each is composed of internal commands that the
workers' C runs in their own order of reads and writes. Invariant: an error of one part is the answer of the whole.
World file.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from nodedb_node.errors import Kind
from nodedb_node.routing.places import VSHARDS, vshards_of_group, worker_of_group, worker_of_vshard
from nodedb_node.routing.table import SLOTS, vshard_of_slot
from workers.frontend import resp
from workers.frontend.context import Context

AsyncHandler = Callable[[Context, list[bytes]], Awaitable[bytes]]

KEYS_STEP = b"4096"
CURSOR_VSHARD_MASK = VSHARDS - 1


class PartFailed(Exception):
    """A worker answered with an error; its text is the reply."""


async def part(ctx: Context, worker: int, vshard: int, argv: list[bytes]) -> resp.Reply:
    reply = resp.decode(await ctx.call(worker, vshard, argv))
    if isinstance(reply, resp.Error):
        raise PartFailed(reply.text)
    return reply


def first_vshard(ctx: Context, worker: int) -> int:
    return next(v for v in range(VSHARDS) if worker_of_vshard(v, ctx.groups, ctx.workers) == worker)


async def everywhere(ctx: Context, argv: list[bytes]) -> list[resp.Reply]:
    """The command in each worker of the scope."""
    return await asyncio.gather(*(part(ctx, worker, first_vshard(ctx, worker), argv) for worker in ctx.scope()))


async def dbsize(ctx: Context, argv: list[bytes]) -> bytes:
    counts = await everywhere(ctx, [b"nd.dbsize"])
    return resp.encode(sum(count for count in counts if isinstance(count, int)), ctx.resp)


async def randomkey(ctx: Context, argv: list[bytes]) -> bytes:
    drawn = [row for row in await everywhere(ctx, [b"nd.randomkey"]) if isinstance(row, list) and row[1] is not None]
    if not drawn:
        return resp.encode(None, ctx.resp)
    rows = [row[0] if isinstance(row[0], int) else 0 for row in drawn]
    return resp.encode(random.choices(drawn, weights=rows)[0][1], ctx.resp)


async def flushall(ctx: Context, argv: list[bytes]) -> bytes:
    if len(argv) > 2 or (len(argv) == 2 and argv[1].lower() not in (b"sync", b"async")):
        return resp.error(Kind.SYNTAX.value)
    jobs = []
    for group in range(ctx.groups):
        worker = worker_of_group(group, ctx.groups, ctx.workers)
        if worker in ctx.scope():
            jobs.append(part(ctx, worker, vshards_of_group(group, ctx.groups)[0], [b"nd.flush"]))
    # All are waited for: an answer says that nothing of this command happens any more.
    for result in await asyncio.gather(*jobs, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
    return resp.OK


async def scan(ctx: Context, argv: list[bytes]) -> bytes:
    if not argv[1].isdigit() or int(argv[1]) >= 1 << 64:
        return resp.error("ERR invalid cursor")
    cursor = int(argv[1])
    owner = worker_of_vshard(cursor & CURSOR_VSHARD_MASK, ctx.groups, ctx.workers)
    worker = ctx.scope()[0] if cursor == 0 else int(owner)
    if worker not in ctx.scope():
        return resp.encode([b"0", []], ctx.resp)
    cursor, keys = await _piece(ctx, worker, argv[1:])
    # Behind a worker's last vShard the cursor names the next worker's first; on a worker's port that is the end.
    if cursor and worker_of_vshard(cursor & CURSOR_VSHARD_MASK, ctx.groups, ctx.workers) not in ctx.scope():
        cursor = 0
    return resp.encode([b"%d" % cursor, keys], ctx.resp)


async def _piece(ctx: Context, worker: int, arguments: list[bytes]) -> tuple[int, list[resp.Value]]:
    reply = await part(ctx, worker, first_vshard(ctx, worker), [b"nd.scan", *arguments])
    assert isinstance(reply, list) and isinstance(reply[0], bytes) and isinstance(reply[1], list)
    return int(reply[0]), reply[1]


async def _all_keys(ctx: Context, worker: int, options: list[bytes], limit: int | None = None) -> list[resp.Value]:
    keys: list[resp.Value] = []
    cursor = first_vshard(ctx, worker)
    while limit is None or len(keys) < limit:
        cursor, found = await _piece(ctx, worker, [b"%d" % cursor, b"COUNT", KEYS_STEP, *options])
        keys += found
        if cursor == 0 or worker_of_vshard(cursor & CURSOR_VSHARD_MASK, ctx.groups, ctx.workers) != worker:
            break
    return keys


async def keys(ctx: Context, argv: list[bytes]) -> bytes:
    """In bounded pieces: other clients are served between them."""
    found: list[resp.Value] = []
    for worker in ctx.scope():
        found += await _all_keys(ctx, worker, [b"MATCH", argv[1]])
    return resp.encode(found, ctx.resp)


async def slot_keys(ctx: Context, slot: int, limit: int | None) -> list[resp.Value]:
    worker = worker_of_vshard(vshard_of_slot(slot), ctx.groups, ctx.workers)
    return await _all_keys(ctx, worker, [b"nd.slot", b"%d" % slot], limit)


def slot_of(text: bytes) -> int | None:
    return int(text) if text.isdigit() and int(text) < SLOTS else None


async def countkeysinslot(ctx: Context, argv: list[bytes]) -> bytes:
    slot = slot_of(argv[2])
    if slot is None:
        return resp.error("ERR Invalid slot")
    return resp.encode(len(await slot_keys(ctx, slot, None)), ctx.resp)


async def getkeysinslot(ctx: Context, argv: list[bytes]) -> bytes:
    slot = slot_of(argv[2])
    if slot is None or not argv[3].isdigit():
        return resp.error("ERR Invalid slot or number of keys")
    limit = int(argv[3])
    return resp.encode((await slot_keys(ctx, slot, limit))[:limit], ctx.resp)


HANDLERS: dict[str, AsyncHandler] = {
    "dbsize": dbsize,
    "randomkey": randomkey,
    "flushall": flushall,
    "flushdb": flushall,
    "scan": scan,
    "keys": keys,
    "cluster|countkeysinslot": countkeysinslot,
    "cluster|getkeysinslot": getkeysinslot,
}
