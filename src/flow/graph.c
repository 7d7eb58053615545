/*
 * graph.c
 *	  Which members of a flow depend on which others.
 *
 * Made of the names in a flow's document, whether they are right or not: what is
 * not there, or is named twice, makes no edge.  Everything takes time in proportion
 * to the members and edges, also in a chain of a million, but a question for an
 * ancestor, which walks up at worst.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "flow/flow.h"

/* A member */
typedef struct Member
{
	JsonbContainer *json;		/* NULL: it is no object */
	JsonbContainer *depends_on; /* NULL: none that can be read */
	const char *name;			/* NULL: none; stands in the document */
	int			len;
	int			first_with_name;	/* the first that has its name, or itself */
	int			first_edge;
	int			nedges;
	int			mark;			/* the latest walk that came here */
	/* found by find_components() */
	int			component;		/* of those that depend on each other; one
								 * that depends on others has a higher number */
	int			low;
	/* found by label_tree(), the tree of the first jobs that each depends on */
	int			label;			/* those below have the next ones */
	int			below;			/* how many, with itself */
} Member;

struct JobqFlowGraph
{
	MemoryContext mcxt;			/* all of it is there */
	int			n;
	Member	   *nodes;
	int		   *edges;			/* upstream members; those of a node are
								 * together */
	uint32		mask;			/* of the table of names */
	int		   *table;			/* members by hash of the name, or -1 */
	int			walks;
	bool		labelled;
	int			ncomponents;
	int		   *order;			/* members in the order of components */
	int		   *queue;			/* of a walk up */
};

/* An array of numbers for the members. */
static int *
make_array(const JobqFlowGraph *g, int flags)
{
	return MemoryContextAllocExtended(g->mcxt, (g->n + 1) * sizeof(int), MCXT_ALLOC_HUGE | flags);
}

/* The place of a name in the table: of the member that has it first, or an empty one. */
static int *
find_place(const JobqFlowGraph *g, const char *name, int len)
{
	uint32		i = hash_bytes((const unsigned char *) name, len);

	for (;; i++)
	{
		int		   *place = &g->table[i & g->mask];

		if (*place < 0 || (g->nodes[*place].len == len && memcmp(g->nodes[*place].name, name, len) == 0))
			return place;
	}
}

/* The first member with a name, or -1. */
int
jobq_graph_find(const JobqFlowGraph *g, const char *name, int len)
{
	return *find_place(g, name, len);
}

/* How many members there are. */
int
jobq_graph_size(const JobqFlowGraph *g)
{
	return g->n;
}

/* A member's object; NULL: it is none. */
JsonbContainer *
jobq_graph_member(const JobqFlowGraph *g, int i)
{
	return g->nodes[i].json;
}

/* The first member with the name of this one, which can be itself. */
int
jobq_graph_namesake(const JobqFlowGraph *g, int i)
{
	return g->nodes[i].first_with_name;
}

/* On how many others a member depends. */
int
jobq_graph_degree(const JobqFlowGraph *g, int i)
{
	return g->nodes[i].nedges;
}

/* Find the name of a member and what it depends on; returns how many edges it can have. */
static int
read_node(JobqFlowGraph *g, int i, const JsonbValue *v)
{
	Member	   *node = &g->nodes[i];
	JsonbValue	value;
	int		   *place;

	node->first_with_name = i;
	if (v->type != jbvBinary || !JsonContainerIsObject(v->val.binary.data))
		return 0;
	node->json = v->val.binary.data;
	if (getKeyJsonValueFromContainer(node->json, "name", 4, &value) != NULL && value.type == jbvString)
	{
		node->name = value.val.string.val;
		node->len = value.val.string.len;
		place = find_place(g, node->name, node->len);
		if (*place < 0)
			*place = i;
		node->first_with_name = *place;
	}
	if (getKeyJsonValueFromContainer(node->json, "depends_on", 10, &value) != NULL &&
		value.type == jbvBinary && JsonContainerIsArray(value.val.binary.data))
	{
		node->depends_on = value.val.binary.data;
		return JsonContainerSize(node->depends_on);
	}
	return 0;
}

/* Make the edges of a member: to others that are there, each once. */
static void
connect(JobqFlowGraph *g, int i)
{
	Member	   *node = &g->nodes[i];
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (node->depends_on == NULL)
		return;
	g->walks++;
	it = JsonbIteratorInit(node->depends_on);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		int			upstream;

		if (token != WJB_ELEM || v.type != jbvString)
			continue;
		upstream = jobq_graph_find(g, v.val.string.val, v.val.string.len);
		if (upstream < 0 || upstream == i || g->nodes[upstream].mark == g->walks)
			continue;
		g->nodes[upstream].mark = g->walks;
		g->edges[node->first_edge + node->nedges++] = upstream;
	}
}

/* The graph of the members in an array, which must stay where it is. */
JobqFlowGraph *
jobq_graph_create(JsonbContainer *jobs)
{
	JobqFlowGraph *g = palloc0(sizeof(JobqFlowGraph));
	uint32		places;
	JsonbIterator *it = JsonbIteratorInit(jobs);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			nedges = 0;
	int			i = 0;

	g->mcxt = CurrentMemoryContext;
	g->n = JsonContainerSize(jobs);
	places = pg_nextpower2_32(Max(g->n, 4) * 2);
	g->mask = places - 1;
	g->table = palloc_extended(places * sizeof(int), MCXT_ALLOC_HUGE);
	memset(g->table, -1, places * sizeof(int));
	g->nodes = palloc_extended(Max(g->n, 1) * sizeof(Member), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		g->nodes[i].first_edge = nedges;
		nedges += read_node(g, i, &v);
		i++;
	}
	g->edges = palloc_extended(Max(nedges, 1) * sizeof(int), MCXT_ALLOC_HUGE);
	for (i = 0; i < g->n; i++)
		connect(g, i);
	return g;
}

/*
 * Find the components (Tarjan, with a stack of our own).  A component is complete
 * when all that it depends on are, so each gets a higher number than these.
 */
static void
find_components(JobqFlowGraph *g)
{
	int		   *path = make_array(g, 0);
	int		   *next = make_array(g, MCXT_ALLOC_ZERO);
	int		   *open = make_array(g, 0);
	int		   *number = make_array(g, MCXT_ALLOC_ZERO);
	int			nopen = 0;
	int			count = 0;
	int			done = 0;

	g->order = make_array(g, 0);
	for (int i = 0; i < g->n; i++)
		g->nodes[i].component = -1;
	for (int root = 0; root < g->n; root++)
	{
		int			depth = 0;

		if (number[root] != 0)
			continue;
		CHECK_FOR_INTERRUPTS();
		path[0] = root;
		while (depth >= 0)
		{
			int			i = path[depth];
			Member	   *node = &g->nodes[i];

			/* come here for the first time */
			if (number[i] == 0)
			{
				number[i] = node->low = ++count;
				open[nopen++] = i;
			}
			/* go on with what it depends on */
			if (next[i] < node->nedges)
			{
				int			upstream = g->edges[node->first_edge + next[i]++];

				if (number[upstream] == 0)
					path[++depth] = upstream;
				else if (g->nodes[upstream].component < 0)
					node->low = Min(node->low, number[upstream]);
				continue;
			}
			/* all that was opened since is one component with it */
			if (node->low == number[i])
			{
				int			member;

				do
				{
					member = open[--nopen];
					g->nodes[member].component = g->ncomponents;
					g->order[done++] = member;
				} while (member != i);
				g->ncomponents++;
			}
			if (--depth >= 0)
				g->nodes[path[depth]].low = Min(g->nodes[path[depth]].low, node->low);
		}
	}
	pfree(path);
	pfree(next);
	pfree(open);
	pfree(number);
}

/* The first job that one depends on and that does not depend on it in its turn, or -1. */
static int
tree_parent(const JobqFlowGraph *g, int i)
{
	const Member *node = &g->nodes[i];

	if (node->nedges == 0 || g->nodes[g->edges[node->first_edge]].component == node->component)
		return -1;
	return g->edges[node->first_edge];
}

/* Label the members so that those below one in the tree have the labels after its own. */
static void
label_tree(JobqFlowGraph *g)
{
	int		   *next = make_array(g, 0);
	int			next_root = 0;

	for (int k = 0; k < g->n; k++)
		g->nodes[k].below = 1;
	for (int k = g->n - 1; k >= 0; k--)
	{
		int			parent = tree_parent(g, g->order[k]);

		if (parent >= 0)
			g->nodes[parent].below += g->nodes[g->order[k]].below;
	}
	for (int k = 0; k < g->n; k++)
	{
		int			i = g->order[k];
		int			parent = tree_parent(g, i);
		int		   *label = parent >= 0 ? &next[parent] : &next_root;

		g->nodes[i].label = *label;
		*label += g->nodes[i].below;
		next[i] = g->nodes[i].label + 1;
	}
	pfree(next);
	g->labelled = true;
}

/* Does a member stand below another in the tree, or is it that? */
static inline bool
is_below(const Member *top, const Member *member)
{
	return member->label >= top->label && member->label < top->label + top->below;
}

/*
 * Does a member depend on another, directly or through others?  A walk up looks
 * only where the numbers of components leave it open, and ends at the first that
 * stands below the other in the tree: in a chain or a tree that is the member itself.
 * It goes on in turn from the one that it saw first, which finds what is near, and
 * from the last, which finds what is far, in a few steps where others would take all.
 */
bool
jobq_graph_is_ancestor(JobqFlowGraph *g, int ancestor, int of)
{
	const Member *target = &g->nodes[ancestor];
	int			first = 0;
	int			n = 0;
	bool		found = false;

	if (g->order == NULL)
		find_components(g);
	if (!g->labelled)
		label_tree(g);
	if (target->component > g->nodes[of].component)
		return false;
	if (ancestor != of && is_below(target, &g->nodes[of]))
		return true;

	if (g->queue == NULL)
		g->queue = make_array(g, 0);
	g->walks++;
	g->queue[n++] = of;
	for (int step = 0; first < n && !found; step++)
	{
		const Member *node = &g->nodes[step % 2 == 0 ? g->queue[first++] : g->queue[--n]];

		for (int e = 0; e < node->nedges && !found; e++)
		{
			int			i = g->edges[node->first_edge + e];
			Member	   *upstream = &g->nodes[i];

			if (upstream->mark == g->walks || upstream->component < target->component)
				continue;
			upstream->mark = g->walks;
			found = is_below(target, upstream);
			g->queue[n++] = i;
		}
		if (step % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
	}
	return found;
}

/* Mark, too, what depends on members that are marked, directly or through others. */
void
jobq_graph_mark_below(JobqFlowGraph *g, bool *marked)
{
	if (g->order == NULL)
		find_components(g);
	for (int k = 0; k < g->n; k++)
	{
		const Member *node = &g->nodes[g->order[k]];

		for (int e = 0; e < node->nedges; e++)
			marked[g->order[k]] |= marked[g->edges[node->first_edge + e]];
	}
}

/* The next member that one depends on and that depends on it. */
static int
next_in_cycle(const JobqFlowGraph *g, int i)
{
	const Member *node = &g->nodes[i];
	int			e = node->first_edge;

	while (g->nodes[g->edges[e]].component != node->component)
		e++;
	return g->edges[e];
}

/* Write down a cycle of a component, from its first member on. */
static char *
describe_cycle(JobqFlowGraph *g, int i)
{
	StringInfoData text;
	int			start;
	int			first;

	/* to go from one to what it depends on ends in a cycle */
	g->walks++;
	for (; g->nodes[i].mark != g->walks; i = next_in_cycle(g, i))
		g->nodes[i].mark = g->walks;
	start = first = i;
	while ((i = next_in_cycle(g, i)) != start)
		first = Min(first, i);
	initStringInfo(&text);
	i = first;
	do
	{
		appendStringInfo(&text, "\"%.*s\" -> ", g->nodes[i].len, g->nodes[i].name);
		i = next_in_cycle(g, i);
	} while (i != first);
	appendStringInfo(&text, "\"%.*s\"", g->nodes[first].len, g->nodes[first].name);
	return text.data;
}

/*
 * Members that depend on each other: for each component one cycle, as a string,
 * in the order of their first members.
 */
List *
jobq_graph_cycles(JobqFlowGraph *g)
{
	int		   *size;
	List	   *cycles = NIL;

	if (g->order == NULL)
		find_components(g);
	if (g->ncomponents == g->n)
		return NIL;
	size = make_array(g, MCXT_ALLOC_ZERO);
	for (int i = 0; i < g->n; i++)
		size[g->nodes[i].component]++;
	for (int i = 0; i < g->n; i++)
	{
		int		   *members = &size[g->nodes[i].component];

		if (*members > 1)
			cycles = lappend(cycles, describe_cycle(g, i));
		*members = 0;
	}
	pfree(size);
	return cycles;
}
