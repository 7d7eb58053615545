/*
 * faults.c
 *	  What is done with what is wrong in a flow's document: it is raised, or kept.
 */
#include "postgres.h"

#include "utils/jsonpath.h"
#include "utils/memutils.h"

#include "flow/document.h"

/* A fault: raise or keep it. */
void
jobq_add_fault(JobqChecker *ck, const JobqTrail *trail, const char *problem)
{
	MemoryContext old;
	JobqFlowFault *fault;

	if (!ck->gather)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg_internal("%s", problem)));
	if (list_length(ck->faults) > JOBQ_MAX_FAULTS)
		return;
	old = MemoryContextSwitchTo(ck->mcxt);
	fault = palloc(sizeof(JobqFlowFault));
	if (list_length(ck->faults) < JOBQ_MAX_FAULTS)
	{
		fault->path = jobq_trail_path(trail);
		fault->problem = pstrdup(problem);
	}
	else
	{
		fault->path = pstrdup("$");
		fault->problem = psprintf("there are more than %d faults", JOBQ_MAX_FAULTS);
	}
	ck->faults = lappend(ck->faults, fault);
	MemoryContextSwitchTo(old);
}

/* Was the error about what was read?  Otherwise raise it again. */
void
jobq_require_fault(ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case MAKE_SQLSTATE('0', 'A', '0', '0', '0'):	/* these of jsonpaths */
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '4', '0', '0', '0'):
			break;
		default:
			ReThrowError(error);
	}
}

/* Do something that raises faults; false: it did, and the fault is kept. */
bool
jobq_attempt(JobqChecker *ck, const JobqTrail *trail, void (*work) (void *arg), void *arg)
{
	ErrorData  *error;
	StringInfoData problem;

	if (!ck->gather)
	{
		work(arg);
		return true;
	}
	error = jobq_try(work, arg);
	if (error == NULL)
		return true;
	jobq_require_fault(error);
	initStringInfo(&problem);
	appendStringInfoString(&problem, error->message);
	if (error->detail != NULL)
		appendStringInfo(&problem, ". %s", error->detail);
	if (error->hint != NULL)
		appendStringInfo(&problem, "%s %s", error->detail != NULL ? "" : ".", error->hint);
	jobq_add_fault(ck, trail, problem.data);
	pfree(problem.data);
	FreeErrorData(error);
	return false;
}

/* What cannot be read as a jsonpath, and has no "$": how one begins. */
static void
hint_jsonpath(void *arg)
{
	if (geterrcode() == ERRCODE_SYNTAX_ERROR && strchr(arg, '$') == NULL)
		errhint("A jsonpath begins with \"$\", all of the value, as in \"$.name\".");
}

/* Read a jsonpath, which must be one; for jobq_attempt(). */
void
jobq_parse_jsonpath(void *arg)
{
	ErrorContextCallback context = {.callback = hint_jsonpath,.arg = arg,.previous = error_context_stack};

	error_context_stack = &context;
	DirectFunctionCall1(jsonpath_in, CStringGetDatum(arg));
	error_context_stack = context.previous;
}
