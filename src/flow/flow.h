/*
 * flow.h
 *	  Flows: jobs whose work is other jobs.
 */
#ifndef JOBQ_FLOW_H
#define JOBQ_FLOW_H

#include "job/job.h"

#define JOBQ_MAX_BACKFILL	100000	/* times of a schedule */

/* document.c: what a flow says, as JSON */

/* Something in it that cannot be */
typedef struct JobqFlowFault
{
	char	   *path;			/* where, as a jsonpath:
								 * $.jobs[3].depends_on[0] */
	char	   *problem;
} JobqFlowFault;

extern List *jobq_check_document(Jsonb *flow, bool scheduled, JobqSubmission *s, JobqElements *members);
extern void jobq_read_flow(Jsonb *flow, JobqSubmission *s);
extern void jobq_read_members(Jsonb *definition, JobqElements *es);

/* graph.c: which members of a flow depend on which others */
typedef struct JobqFlowGraph JobqFlowGraph;

extern JobqFlowGraph *jobq_graph_create(JsonbContainer *jobs);
extern int	jobq_graph_size(const JobqFlowGraph *g);
extern JsonbContainer *jobq_graph_member(const JobqFlowGraph *g, int i);
extern int	jobq_graph_degree(const JobqFlowGraph *g, int i);
extern int	jobq_graph_namesake(const JobqFlowGraph *g, int i);
extern int	jobq_graph_find(const JobqFlowGraph *g, const char *name, int len);
extern bool jobq_graph_is_ancestor(JobqFlowGraph *g, int ancestor, int of);
extern void jobq_graph_mark_below(JobqFlowGraph *g, bool *marked);
extern List *jobq_graph_cycles(JobqFlowGraph *g);

/* expand.c: submitting and starting them */
extern void jobq_flow_init(void);
extern void jobq_become_submitter(JobqCall *call, int64 flow, Oid *user, int *context);
extern void jobq_submit_flow(JobqCall *call, Jsonb *flow, JobqSubmission *s);
extern void jobq_submit_read_flow(JobqCall *call, JobqSubmission *s);

extern void jobq_insert_members(JobqCall *call, int64 id, JobqElements *members, Jsonb *args, JobqCounters *c);

/* map.c */
extern void jobq_start_map(JobqCall *call, int64 id, JobqSlot slot, Jsonb *definition);

/* clone.c: copies of flows */
extern void jobq_reuse_members(JobqCall *call, Jsonb *definition, int64 clone_of, Datum clone_from, JobqElements *members);
extern bool jobq_is_in_copy(JobqCall *call, int64 flow);
extern TupleTableSlot *jobq_find_original(JobqCall *call, TupleTableSlot *job);

/* undo.c */
extern void jobq_undo_due(JobqCall *call, int64 id, char **problem);

#endif							/* JOBQ_FLOW_H */
