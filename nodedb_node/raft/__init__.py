"""Consensus of one group as a pure machine: messages, time and durability in; records, messages and commits out.

Invariant: nothing in this package reads a clock, draws a random number by itself or does IO. What the machine promises
to others (votes, acknowledgements) leaves only behind the records it depends on. All groups of a process are
multiraft's; liveness of peers is measured per lane there and read through `Contacts`.

now_us is read after what it is given with (a message, a read, an answer of the disk) has arrived, and before anything
that this causes leaves. Promises count from arrival and leases from sending: were the clock read before a pause and the
message taken after it, a promise would end before the lease that rests on it.

The verbs of core.Raft (config, restored, contacts, rng, now_us):

    step(now_us, message)                 a decoded message whose sender was checked against its lane
    tick(now_us), next_deadline_us()      None: nothing to wait for
    take_ready() -> Ready | None          once per turn; appends are made here, so a turn's proposals share one append
    persisted(now_us, number)             Ready `number` and all before it are durable
    propose(now_us, size_bytes, data)     -> (index, term) | Refusal; so do propose_config(now_us, ConfigChange),
    transfer(now_us, to), read(now_us, context), campaign(now_us) -> None | Refusal; resign(now_us)
    contact(now_us)                       acked_us may have risen; needed only while waits_for_contact
    lane_lost(now_us, peer, rank)         the lane to peer died, its generation changed, or this group left its set;
                                          whatever this replica's role is. rank spreads the groups of one lane
    unreachable(peer), reachable(now_us, peer), peer_restarted(now_us, peer)
    lane_exception(now_us, peer, term)    an acknowledgement's doubt: not hosted (0), at another term, in quarantine
    applied_to(index), compacted(index)   by the state machine; covered by its durable checkpoint
    offer_snapshot(now_us, peer, index, term, transfer), snapshot_failed(now_us, peer)    leader's owner
    snapshot_installed(now_us, offer), snapshot_refused(now_us, offer)                    member's owner
    is_alone(), settle(index)             the only member: the owner appends by itself and tells it later
    lease_valid(now_us), configuration_at(index), raise_bound(bound), quarantine_now(now_us, why), retained_index();
    status is read from the fields (state.py): role, term, leader, commit, applied, log, peers, configs, halted, …
"""
