/*
 * reverse.c
 *	  What there is to be undone in a flow that has ended, and in which order.
 *
 * All that is in it, at any depth, is visited once.  An edge between jobs in two members
 * of the flow counts as one between these; of the two, the upstream one is older,
 * so each walk along these edges is one pass over them by ids.
 *
 * That is done here, and only what is then to be submitted is put together in SQL
 * (job_undo_jobs): with all of it in SQL, plans went by estimates that recursion and
 * joins of it had multiplied many times over, and allocated hash tables, or read
 * tables, in proportion to these.
 *
 * Nothing is locked: who undoes a flow has it locked, so that what is in it stays as it is.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/snapmgr.h"

#include "flow/flow.h"

/* A member of the flow */
typedef struct Part
{
	int64		id;				/* first, for jobq_compare_ids() */
	bool		done;			/* it has succeeded, and is to be undone */
	bool		doubt;			/* nobody knows whether it was done */
	bool		inside;			/* something in it is to be undone */
	bool		acts;			/* one of these, or another flow undoes it */
	bool		above;			/* upstream of one that acts */
	bool		below;			/* downstream of one that acts */
} Part;

/* A job in the flow */
typedef struct Inside
{
	int64		id;				/* hash key */
	int64		member;			/* that it is, or is in */
} Inside;

/* An edge between two members */
typedef struct Edge
{
	int64		up;
	int64		down;
} Edge;

typedef struct Reverse
{
	JobqCall   *call;
	int64		flow;
	HTAB	   *inside;
	Part	   *parts;			/* by ids, once all were visited */
	int			nparts;
	int			part_room;
	Edge	   *edges;			/* by ids */
	int			nedges;
	int			edge_room;
	List	   *acts;			/* Inside of what is to be undone in members */
} Reverse;

/* Make room for one more in an array. */
static void *
grow(void *array, int n, int *room, Size size)
{
	if (n < *room)
		return array;
	*room = Max(*room * 2, 64);
	return array == NULL ? palloc_extended(*room * size, MCXT_ALLOC_HUGE) : repalloc_huge(array, *room * size);
}

/* Order of edges. */
static int
compare_edges(const void *a, const void *b)
{
	const Edge *ea = a;
	const Edge *eb = b;

	return ea->up != eb->up ? jobq_compare_ids(&ea->up, &eb->up) : jobq_compare_ids(&ea->down, &eb->down);
}

/* Was a job taken over from the flow of which its own is a copy?  Then it is undone with that. */
static bool
was_taken_over(JobqCall *call, TupleTableSlot *job)
{
	TupleTableSlot *original = jobq_find_original(call, job);

	jobq_slot_free(original);
	return original != NULL;
}

/* Visit a job in the flow: a JobqVisitor. */
static bool
visit(TupleTableSlot *job, void *arg)
{
	Reverse    *r = arg;
	int64		id = jobq_attr_int64(job, JOB_ID);
	int64		flow = jobq_attr_int64(job, JOB_FLOW);
	bool		succeeded = jobq_attr_int16(job, JOB_OUTCOME) == OUTCOME_SUCCEEDED;
	bool		has_undo = !slot_attisnull(job, JOB_UNDO);
	Inside	   *in = hash_search(r->inside, &id, HASH_ENTER, NULL);
	Part		part = {.id = id};

	part.done = has_undo && succeeded && !was_taken_over(r->call, job);

	/*
	 * the last attempt that says something was lost, timed out, or succeeded
	 * before the job was opened again
	 */
	part.doubt = has_undo && !succeeded && slot_attisnull(job, JOB_DECIDED_BY) &&
		jobq_keeps_key(r->call, job, jobq_attr_int32(job, JOB_ATTEMPT_NO));
	part.acts = part.done || part.doubt || (jobq_is_flow(job) && jobq_undone_by(r->call, id) != 0);
	if (flow == r->flow)
	{
		in->member = id;
		r->parts = grow(r->parts, r->nparts, &r->part_room, sizeof(Part));
		r->parts[r->nparts++] = part;
	}
	else
	{
		Inside	   *around = hash_search(r->inside, &flow, HASH_FIND, NULL);

		if (around == NULL)
			elog(ERROR, "flow %lld was not visited before its member %lld", (long long) flow, (long long) id);
		in->member = around->member;
		if (part.acts)
			r->acts = lappend(r->acts, in);
	}
	return true;
}

/* The member with an id. */
static Part *
find_part(const Reverse *r, int64 id)
{
	return bsearch(&id, r->parts, r->nparts, sizeof(Part), jobq_compare_ids);
}

/* Find the edges that come from other members to a job, and what is in these. */
static void
add_edges(Reverse *r, const Inside *in)
{
	Datum		key = Int64GetDatum(in->id);
	JobqScan   *scan = jobq_scan_begin(r->call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
	TupleTableSlot *row;

	while ((row = jobq_scan_next(scan)) != NULL)
	{
		int64		upstream = jobq_attr_int64(row, DEP_UPSTREAM);
		const Inside *up = hash_search(r->inside, &upstream, HASH_FIND, NULL);

		CHECK_FOR_INTERRUPTS();
		if (up == NULL || up->member == in->member)
			continue;
		r->edges = grow(r->edges, r->nedges, &r->edge_room, sizeof(Edge));
		r->edges[r->nedges++] = (Edge)
		{
			up->member, in->member
		};
	}
	jobq_scan_end(scan);
}

/* Find all that is in the flow, and the edges between its members. */
static void
read_inside(Reverse *r)
{
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(Inside),.hcxt = CurrentMemoryContext};
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	HASH_SEQ_STATUS all;
	Inside	   *in;
	ListCell   *lc;
	int			n = 0;

	r->inside = hash_create("jobq jobs in a flow", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	jobq_visit_inside(r->call, r->flow, snapshot, visit, r);
	UnregisterSnapshot(snapshot);
	qsort(r->parts, r->nparts, sizeof(Part), jobq_compare_ids);
	foreach(lc, r->acts)
	{
		Part	   *part = find_part(r, ((Inside *) lfirst(lc))->member);

		/* what another flow undoes is not looked into */
		if (!part->acts)
			part->inside = true;
	}
	for (int i = 0; i < r->nparts; i++)
		r->parts[i].acts |= r->parts[i].inside;
	hash_seq_init(&all, r->inside);
	while ((in = hash_seq_search(&all)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		add_edges(r, in);
	}
	qsort(r->edges, r->nedges, sizeof(Edge), compare_edges);
	for (int i = 0; i < r->nedges; i++)
	{
		if (i == 0 || compare_edges(&r->edges[i], &r->edges[n - 1]) != 0)
			r->edges[n++] = r->edges[i];
	}
	r->nedges = n;
}

/* Find what is upstream, and what is downstream, of members that act. */
static void
mark_between(Reverse *r)
{
	for (int i = 0; i < r->nedges; i++)
	{
		const Part *up = find_part(r, r->edges[i].up);

		if (up->acts || up->below)
			find_part(r, r->edges[i].down)->below = true;
	}
	for (int i = r->nedges - 1; i >= 0; i--)
	{
		const Part *down = find_part(r, r->edges[i].down);

		if (down->acts || down->above)
			find_part(r, r->edges[i].up)->above = true;
	}
}

/* Is a member to be in the flow that undoes this one? */
static bool
belongs(const Part *part)
{
	return part->acts || (part->above && part->below);
}

PG_FUNCTION_INFO_V1(jobq_job_undo_members);

/* job_undo_members(of_flow) */
Datum
jobq_job_undo_members(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	JobqCall	call;
	Reverse		r = {.call = &call,.flow = PG_GETARG_INT64(0)};
	Datum	   *after;
	int			e = 0;

	InitMaterializedSRF(fcinfo, 0);
	jobq_open_call(&call);
	read_inside(&r);
	mark_between(&r);
	after = palloc_extended(Max(r.nparts, 1) * sizeof(Datum), MCXT_ALLOC_HUGE);
	for (int i = 0; i < r.nparts; i++)
	{
		const Part *part = &r.parts[i];
		Datum		values[5] = {Int64GetDatum(part->id), BoolGetDatum(part->done), BoolGetDatum(part->doubt), BoolGetDatum(part->inside)};
		bool		nulls[5] = {false};
		ArrayType  *array;
		int			n = 0;

		CHECK_FOR_INTERRUPTS();
		for (; e < r.nedges && r.edges[e].up == part->id; e++)
		{
			if (belongs(find_part(&r, r.edges[e].down)))
				after[n++] = Int64GetDatum(r.edges[e].down);
		}
		if (!belongs(part))
			continue;
		array = construct_array(after, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
		values[4] = PointerGetDatum(array);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		pfree(array);
	}
	jobq_close_call(&call);
	return (Datum) 0;
}
