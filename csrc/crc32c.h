/* crc32c.h: CRC-32C (Castagnoli), the checksum of everything the node writes to disk or to a ring.
 *
 * Pure and reentrant. nd_crc32c(nd_crc32c(0, a), b) equals the CRC of a then b. SSE4.2 where the machine has it, a table elsewhere.
 */
#ifndef ND_CRC32C_H
#define ND_CRC32C_H
#include "nd.h"

/* cffi:begin */
uint32_t nd_crc32c(uint32_t crc, const void *data, size_t bytes);
/* cffi:end */

/* The table version, for machines without the instruction and for the test that compares both. */
uint32_t nd_crc32c_table(uint32_t crc, const void *data, size_t bytes);
#endif
