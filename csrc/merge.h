/* merge.h: ends the merges of a checkpoint that a death interrupted (ckpt.h): a stage that is whole goes into its vShard's slice.
 *
 * A stage holds the final state of every row it names, so that doing a part of it again changes nothing. Called once, at the
 * opening of an environment, before any vShard's header is read; bounded memory, several synced transactions.
 */
#ifndef ND_MERGE_H
#define ND_MERGE_H
#include "lmdbio.h"

int nd_merge_finish(nd_lmdb *io, uint32_t rows_max, uint64_t bytes_max);   /* of one transaction; 0 or -errno */
#endif
