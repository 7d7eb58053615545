/*
 * try.c
 *	  Doing something that may fail, in a subtransaction of its own.
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/proc.h"
#include "utils/resowner.h"

#include "table/table.h"

/*
 * Would a subtransaction that writes cost others nothing?  Of more than 64 in one
 * transaction snapshots do not know that they belong to it; half of them are left to
 * the caller.
 */
bool
jobq_try_is_cheap(void)
{
	return MyProc->subxidStatus.count < PGPROC_MAX_CACHED_SUBXIDS / 2;
}

/* Do something; NULL or, after the subtransaction was rolled back, the error. */
ErrorData *
jobq_try(void (*work) (void *arg), void *arg)
{
	MemoryContext mcxt = CurrentMemoryContext;
	ResourceOwner resowner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(mcxt);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(mcxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(mcxt);
	CurrentResourceOwner = resowner;
	return error;
}

/* Does an error go away by itself, so that the same can be tried again? */
bool
jobq_error_passes(const ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return error->elevel > ERROR ||
		error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		category == ERRCODE_TRANSACTION_ROLLBACK ||
		category == ERRCODE_INSUFFICIENT_RESOURCES ||
		category == ERRCODE_OPERATOR_INTERVENTION ||
		category == ERRCODE_SYSTEM_ERROR;
}
