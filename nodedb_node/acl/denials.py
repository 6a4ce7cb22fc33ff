"""What clients were refused lately: ACL LOG's entries, newest first.

Invariant: bounded; repetitions within a minute are one entry with a count, so that one noisy client does not push out
what others did. Pure: times come with the entries.
"""

import msgspec

from nodedb_node.acl.messages import Denial

ENTRIES_MAX = 128
LOOK_BACK = 10  # entries that a repetition is searched in, as Redis does
SAME_MS = 60_000


class Denials:
    """The node's log."""

    def __init__(self) -> None:
        self._entries: list[Denial] = []

    def add(self, new: Denial) -> None:
        for number, old in enumerate(self._entries[:LOOK_BACK]):
            if _same(old, new):
                del self._entries[number]
                new = msgspec.structs.replace(new, count=old.count + 1)
                break
        self._entries.insert(0, new)
        del self._entries[ENTRIES_MAX:]

    def newest(self, count: int) -> list[Denial]:
        return self._entries[: max(0, count)]

    def reset(self) -> None:
        self._entries.clear()


def _same(old: Denial, new: Denial) -> bool:
    words = (old.reason, old.context, old.object, old.username) == (new.reason, new.context, new.object, new.username)
    return words and abs(new.at_ms - old.at_ms) <= SAME_MS
