"""When certificates and revocation lists are made anew: pure functions of what they say.

Invariant: the time is the same whenever and wherever it is computed, so a restart neither delays nor hurries a renewal;
it differs between certificates, so nodes that were made together do not renew together; and it lies so early that a
third of a certificate's life is left for whatever keeps a renewal from succeeding.
"""

from nodedb_node.transport.credentials.authority import DAY_S, LIST_S

LIST_RENEWED_S = DAY_S  # six more tries before a list is past its time


def renewal_due_s(issued_s: int, not_after_s: int, serial: str) -> int:
    """From 7/12 to 8/12 of a leaf's life; `serial` in hex is the lot that is drawn."""
    life_s = max(0, not_after_s - issued_s)
    begins_s, window_s = issued_s + life_s * 7 // 12, max(1, life_s // 12)
    return begins_s + int(serial, 16) % window_s


def list_due_s(next_update_s: int) -> int:
    """A day after the list was made, as its nextUpdate tells."""
    return next_update_s - LIST_S + LIST_RENEWED_S
