/*
 * rules.c
 *	  Trigger rules: what becomes of a job, by what became of those upstream.
 *
 * An edge carries two masks over the parent's outcome, require and suffice; the
 * child has a quorum.  Five counts over the child's edges say how far its
 * dependencies are, and from these alone follows the verdict.  Each count only
 * grows while parents are decided, and no verdict but WAIT can be taken back by a
 * later parent, so a child's outcome depends on its parents' outcomes alone and
 * not on their order.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "job/job.h"

const JobqRuleInfo jobq_rules[] = {
	[RULE_ALL_SUCCESS] = {"all_success", OUTCOME_SUCCEEDED, 0, 0, true},
	[RULE_ALL_FAILED] = {"all_failed", OUTCOME_FAILED | OUTCOME_UPSTREAM_FAILED, 0, 0, false},
	[RULE_ALL_DONE] = {"all_done", OUTCOME_ANY, 0, 0, false},
	[RULE_ALL_SKIPPED] = {"all_skipped", OUTCOME_SKIPPED, 0, 0, false},
	[RULE_ONE_FAILED] = {"one_failed", 0, OUTCOME_FAILED | OUTCOME_UPSTREAM_FAILED, 1, false},
	[RULE_QUORUM] = {"quorum", 0, OUTCOME_SUCCEEDED, -1, true},
	[RULE_NONE_FAILED] = {"none_failed", OUTCOME_SUCCEEDED | OUTCOME_SKIPPED, 0, 0, true},
	[RULE_NONE_SKIPPED] = {"none_skipped", OUTCOME_SUCCEEDED | OUTCOME_FAILED | OUTCOME_UPSTREAM_FAILED, 0, 0, false},
	[RULE_NONE_FAILED_MIN_ONE_SUCCESS] = {"none_failed_min_one_success",
	OUTCOME_SUCCEEDED | OUTCOME_SKIPPED, OUTCOME_SUCCEEDED, 1, true},
	[RULE_ONE_SUCCESS] = {"one_success", 0, OUTCOME_SUCCEEDED, 1, true},
	[RULE_ONE_DONE] = {"one_done", 0, OUTCOME_SUCCEEDED | OUTCOME_FAILED, 1, false},
	[RULE_ALWAYS] = {"always", 0, 0, 0, false},
};

/* Find a trigger rule by name. */
JobqRule
jobq_find_rule(const char *name)
{
	for (int i = 0; i < lengthof(jobq_rules); i++)
	{
		if (strcmp(jobq_rules[i].name, name) == 0)
			return (JobqRule) i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized trigger rule: \"%s\"", name),
			 errhint("Valid trigger rules are \"all_success\", \"all_failed\", \"all_done\", \"all_skipped\", \"one_failed\", \"one_success\", \"one_done\", \"none_failed\", \"none_skipped\", \"none_failed_min_one_success\", \"quorum\" and \"always\".")));
}

/* Count an edge whose parent gets (n = 1) or loses (n = -1) an outcome. */
void
jobq_count_edge(JobqCounters *c, int16 require, int16 suffice, int outcome, int n)
{
	c->n[UNDECIDED] -= n;
	if (require != 0)
		c->n[PENDING] -= n;
	if (outcome & suffice)
		c->n[HITS] += n;
	if (require != 0 && !(outcome & require))
		c->n[VIOLATED] += n;
	if ((outcome & OUTCOME_HURTS) && require != REQUIRE_END_ONLY)
		c->n[HURT] += n;
}

/* Add one set of counters to another. */
void
jobq_add_counters(JobqCounters *c, const JobqCounters *change)
{
	for (int i = 0; i < NCOUNTERS; i++)
		c->n[i] += change->n[i];
}

/* Count an edge whose parent is undecided. */
void
jobq_count_undecided(JobqCounters *c, int16 require)
{
	c->n[UNDECIDED]++;
	if (require != 0)
		c->n[PENDING]++;
}

/* What becomes of a job whose dependencies are that far. */
JobqVerdict
jobq_verdict(JobqRule rule, int quorum, const JobqCounters *c)
{
	bool		hopeless = c->n[VIOLATED] > 0 || c->n[HITS] + c->n[UNDECIDED] < quorum;

	if (!hopeless)
		return c->n[PENDING] == 0 && c->n[HITS] >= quorum ? VERDICT_READY : VERDICT_WAIT;
	if (!jobq_rules[rule].wants_success)
		return VERDICT_SKIPPED;
	if (c->n[HURT] > 0)
		return VERDICT_UPSTREAM_FAILED;
	return c->n[UNDECIDED] > 0 ? VERDICT_WAIT : VERDICT_SKIPPED;
}

/* The name of an outcome. */
const char *
jobq_outcome_name(int outcome)
{
	/* in the order of the bits */
	static const char *const names[] = {"succeeded", "failed", "skipped", "cancelled", "upstream_failed"};

	if ((outcome & OUTCOME_ANY) == 0)
		elog(ERROR, "unrecognized outcome: %d", outcome);
	return names[pg_rightmost_one_pos32(outcome)];
}
