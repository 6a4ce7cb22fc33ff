"""Marks of rare branches: production code says `mark("append-gap")` where a branch is hard to reach.

In the node nobody listens and a mark costs one comparison. A simulation sets `hits` to a dictionary and reports which
marks it never reached. Invariant: a mark changes nothing but that dictionary. It is no metric: the node
reads it nowhere.
"""

hits: dict[str, int] | None = None


def mark(name: str) -> None:
    """The branch `name` was taken. Names are literals, one place each, so that all of them can be found by reading."""
    if hits is not None:
        hits[name] = hits.get(name, 0) + 1
