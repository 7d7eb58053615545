/*
 * search.c
 *	  Lets the index on tags serve job_status.
 *
 * job_status has security_barrier: what a query asks of it is run above its filter,
 * so that no function is given what its caller may not see; but for functions that
 * are marked leakproof, such as the equality of texts.  The @> of jsonb is not,
 * though it fails for no value and tells nobody what it compares; as with those
 * others, plans and times can tell how often there is what was asked for.  So, before a query
 * is planned, each condition "tags @> value" on the view is copied into the view,
 * below the filter, where it finds the index.
 *
 * It stays where it was, too, and a row that does not meet it is lost there in any
 * case.  So nothing depends on whether a condition is found here: this looks at
 * those that WHERE joins by AND, in a query that has the view in its FROM.
 */
#include "postgres.h"

#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "optimizer/tlist.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
#include "utils/fmgroids.h"

#include "job/job.h"

static planner_hook_type prev_planner = NULL;

/* Is this value known before the rows of its query are read, and always the same? */
static bool
is_given(Node *value)
{
	return !contain_vars_of_level(value, 0) && !checkExprHasSubLink(value) &&
		!contain_volatile_functions(value);
}

/* Copy a condition into the view, if it is "tags @> value" on job_status. */
static void
copy_condition(Query *query, OpExpr *condition)
{
	Var		   *tags = linitial(condition->args);
	RangeTblEntry *rte;
	Query	   *view;
	Var		   *column;

	if (condition->opfuncid != F_JSONB_CONTAINS || !IsA(tags, Var) || tags->varlevelsup != 0)
		return;
	rte = rt_fetch(tags->varno, query->rtable);
	if (rte->rtekind != RTE_SUBQUERY || !rte->security_barrier || !is_given(lsecond(condition->args)) ||
		!jobq_extension_exists() || jobq_view_of(rte) != jobq_status_oid())
		return;

	/* what stands in the view for its column */
	view = rte->subquery;
	column = (Var *) get_tle_by_resno(view->targetList, tags->varattno)->expr;
	if (!IsA(column, Var) || rt_fetch(column->varno, view->rtable)->relid != jobq_table_oid(JOBQ_JOB) ||
		column->varattno != JOB_TAGS)
		return;
	condition = copyObject(condition);
	IncrementVarSublevelsUp((Node *) condition, 1, 1);
	linitial(condition->args) = copyObject(column);
	view->jointree->quals = make_and_qual(view->jointree->quals, (Node *) condition);
}

/* Do that with all conditions that are joined by AND. */
static void
copy_conditions(Query *query, Node *condition)
{
	ListCell   *lc;

	if (condition == NULL)
		return;
	if (IsA(condition, OpExpr))
		copy_condition(query, (OpExpr *) condition);
	else if (is_andclause(condition))
	{
		foreach(lc, ((BoolExpr *) condition)->args)
			copy_conditions(query, lfirst(lc));
	}
}

/* Do that with a query and all that stand in it; to look for those takes no more than it must. */
static bool
copy_all(Node *node, void *context)
{
	Query	   *query = (Query *) node;
	ListCell   *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, copy_all, context);
	/* until 16 what MERGE joins by stands where others have WHERE */
	if (query->jointree != NULL && query->commandType != CMD_MERGE)
		copy_conditions(query, query->jointree->quals);
	foreach(lc, query->rtable)
		copy_all((Node *) lfirst_node(RangeTblEntry, lc)->subquery, context);
	foreach(lc, query->cteList)
		copy_all(lfirst_node(CommonTableExpr, lc)->ctequery, context);
	if (query->hasSubLinks)
		query_tree_walker(query, copy_all, context,
						  QTW_IGNORE_RT_SUBQUERIES | QTW_IGNORE_CTE_SUBQUERIES);
	return false;
}

/* Plan a query. */
static PlannedStmt *
plan(Query *query, const char *text, int options, ParamListInfo params)
{
	copy_all((Node *) query, NULL);
	return prev_planner ? prev_planner(query, text, options, params) :
		standard_planner(query, text, options, params);
}

/* Called once, while the library is preloaded. */
void
jobq_search_init(void)
{
	prev_planner = planner_hook;
	planner_hook = plan;
}
