/*
 * uncounted.h
 *	  Included before each file of src/ (cc -include) it builds a library that counts
 *	  nothing for job_metrics, which bench/figures/counting.sh compares with the real one.
 */
#include "postgres.h"

#include "shared/shared.h"

static JobqCounts uncounted pg_attribute_unused();

#define jobq_counts(queue_id)			(&uncounted)
#define jobq_count(queue_id, which, n)	((void) (which), (void) (n))
