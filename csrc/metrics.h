/* metrics.h: the counters of one process, in shared memory.
 *
 * Written by one process (started_ms by the supervisor) with plain 64-bit stores, read by control at any time: each word is
 * whole, a set of words is not.
 * Histograms have four buckets per power of two, so a bucket's bounds are at most 25 % apart: values 0 to 3 have one each, then
 * v with 2^e <= v < 2^(e+1) is counted in bucket 4 (e - 1) + the two bits behind v's highest. The last is open.
 */
#ifndef ND_METRICS_H
#define ND_METRICS_H
#include "nd.h"

/* cffi:begin */
#define ND_HIST_BUCKETS 128
typedef struct nd_hist {
    uint64_t count, sum;
    uint64_t bucket[128];
} nd_hist;

/* One Raft group as the process that holds a replica of it sees it; words of nodedb_node/multiraft/messages.py. */
typedef struct nd_group_row {
    uint64_t held;                /* 1 = a replica is here */
    uint64_t role, term, leader, commit, applied, last, reason;
} nd_group_row;

/* Why a group is halted, in words. */
#define ND_HALTS_MAX 16
typedef struct nd_halt_row {
    uint64_t held;                /* 1 = the row says something */
    uint64_t group;
    char why[240];
} nd_halt_row;

typedef struct nd_metrics {
    uint64_t started_ms;          /* wall clock; the supervisor's, who knows it (state, pid, generation: process table, shm.h) */
    uint64_t heartbeat_us;        /* CLOCK_BOOTTIME of the last loop turn */
    uint64_t commands, commands_write, commands_read, commands_python, commands_forwarded, commands_served_for_peers;
    uint64_t errors, overload_refusals, halted_refusals, deadline_refusals, protocol_errors;
    uint64_t connections, connections_accepted, connections_closed, output_limit_closed;
    uint64_t tls_handshakes, tls_handshake_failures, tls_refusals, tls_not_after, tls_lists_end;
    uint64_t commands_denied, auth_failures, auth_refusals, protected_refusals, auth_timeouts;
    uint64_t bytes_in, bytes_out;
    uint64_t turns, batches, batch_bytes;
    uint64_t wal_appends, wal_bytes, wal_backend, wal_segments, wal_segment_bytes;
    uint64_t store_rows, store_resident_rows, store_dirty_rows, store_dirty_bytes, store_memory_bytes, store_checkpoints;
    uint64_t store_cold_reads, store_evictions, store_expired;
    uint64_t ring_tx_full;
    uint64_t core_moves;          /* of a pinned worker that stepped aside, or went home */
    uint64_t nospace;             /* 1 while writes are refused for lack of disk space */
    uint64_t lane_sessions, lane_sessions_begun, lane_sessions_lost, lane_dials, lane_refused_peers, lane_refused_by_peers;
    uint64_t lane_frames_in, lane_frames_out, lane_bytes_in, lane_bytes_out, lane_datagrams_in, lane_datagrams_out;
    uint64_t lane_packets_lost, lane_calls, lane_calls_unknown, lane_calls_late, lane_full, lane_requests_repeated;
    uint64_t lane_bulk_bytes_in, lane_bulk_bytes_out;
    nd_hist command_us;           /* from parsed to reply written, sampled once per turn and batch */
    nd_hist wal_sync_us;
    nd_hist batch_commands;
    nd_hist loop_stall_us;        /* lateness of a timer, see timer.h */
    nd_hist checkpoint_ms;
    nd_hist ring_depth_bytes;
    nd_halt_row halts[ND_HALTS_MAX]; /* the first halted groups; the reason of more is in the log */
    nd_group_row groups[ND_GROUPS_MAX];
} nd_metrics;
/* cffi:end */

#ifdef ND_CFFI_ONLY /* what cffi is told of the inline function below */
/* cffi:begin */
void nd_hist_add(nd_hist *h, uint64_t v);
/* cffi:end */
#endif

static inline void nd_hist_add(nd_hist *h, uint64_t v)
{
    unsigned high = v < 4 ? 1 : 63 - (unsigned)__builtin_clzll(v);
    uint64_t i = v < 4 ? v : 4 * (high - 1) + (v >> (high - 2) & 3);
    h->count++;
    h->sum += v;
    h->bucket[i < ND_HIST_BUCKETS ? i : ND_HIST_BUCKETS - 1]++;
}
#endif
