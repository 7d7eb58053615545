/*
 * jsonpath.c
 *		What a jsonpath finds in JSON, unless that could take too long.
 *
 *		The background worker and claims follow the paths of conditions and references.
 *		PostgreSQL evaluates some of them in a time that is a power of the size of the
 *		JSON, and does not look for interrupts meanwhile, so that no time limit could
 *		stop it.  An upper bound of the work is therefore found from the path before it
 *		is followed.
 */
#include "postgres.h"

#include <ctype.h>
#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/jsonpath.h"

#include "job/job.h"

/* Steps of the evaluation, about a second's worth */
#define MOST_WORK 1e8

/* The least size of a value in jsonb is four bytes, a usual one is much larger */
#define BYTES_PER_VALUE 8

/* The work for a part of a path: a power of the size of "@" times one of the size of "$" */
typedef struct Work
{
	int			current;
	int			root;
	bool		many;			/* can it find several values? */
} Work;

typedef struct Walk
{
	bool		lax;
	int			nitems;
	double		times;			/* how often a value can be found */
	int			products;		/* and quotients */
	Size		largest;		/* number in the path, in bytes */
	bool		converts;		/* can it make numbers of strings? */
} Walk;

static Work work_of(Walk *walk, JsonPathItem *item);

/* The work for two parts, one after the other. */
static Work
work_of_both(Work a, Work b)
{
	return (Work)
	{
		Max(a.current, b.current), Max(a.root, b.root), false
	};
}

/* A comparison: each value of one side with each of the other, arrays unwrapped if the path is lax. */
static Work
work_to_compare(Work a, Work b)
{
	return a.many && b.many ? (Work)
	{
		a.current + b.current, a.root + b.root, false
	} : work_of_both(a, b);
}

/*
 * Does a pattern refer to what it has matched before, or does it look around, "(?=", "(?!" or
 * "(?<"?  The work for the former has no bound; that for the latter is another power of the size for
 * each that is in another.
 */
static bool
is_costly_pattern(const char *pattern, int len)
{
	for (int i = 0; i + 1 < len; i++)
	{
		if (pattern[i] == '\\' && isdigit((unsigned char) pattern[i + 1]))
			return true;
		if (i + 2 < len && pattern[i] == '(' && pattern[i + 1] == '?' && strchr("=!<", pattern[i + 2]) != NULL)
			return true;
	}
	return false;
}

/* The work for the head of a path, without its accessors. */
static Work
work_of_head(Walk *walk, JsonPathItem *item)
{
	JsonPathItem left;
	JsonPathItem right;
	Work		w = {0};

	switch (item->type)
	{
		case jpiRoot:
			return (Work)
			{
				0, 1, walk->lax
			};
		case jpiCurrent:
			return (Work)
			{
				1, 0, walk->lax
			};
		case jpiNot:
		case jpiIsUnknown:
		case jpiExists:
		case jpiPlus:
		case jpiMinus:
			jspGetArg(item, &left);
			return work_of(walk, &left);
		case jpiLikeRegex:
			jspInitByBuffer(&left, item->base, item->content.like_regex.expr);
			w = work_of(walk, &left);
			w.current++;
			if (is_costly_pattern(item->content.like_regex.pattern, item->content.like_regex.patternlen))
				walk->times = INFINITY;
			return w;
		case jpiAnd:
		case jpiOr:
		case jpiAdd:
		case jpiSub:
		case jpiMul:
		case jpiDiv:
		case jpiMod:
			walk->products += item->type == jpiMul || item->type == jpiDiv || item->type == jpiMod;
			jspGetLeftArg(item, &left);
			jspGetRightArg(item, &right);
			w = work_of(walk, &left);
			return work_of_both(w, work_of(walk, &right));
		case jpiEqual:
		case jpiNotEqual:
		case jpiLess:
		case jpiGreater:
		case jpiLessOrEqual:
		case jpiGreaterOrEqual:
		case jpiStartsWith:
			jspGetLeftArg(item, &left);
			jspGetRightArg(item, &right);
			w = work_of(walk, &left);
			return work_to_compare(w, work_of(walk, &right));
		case jpiNumeric:
			walk->largest = Max(walk->largest, VARSIZE_ANY(jspGetNumeric(item)));
			return w;
		default:
			return w;			/* another literal */
	}
}

/* The work for a path. */
static Work
work_of(Walk *walk, JsonPathItem *item)
{
	Work		w;
	int		   *size;			/* of what the path begins at */
	JsonPathItem accessor;

	check_stack_depth();
	walk->nitems++;
	w = work_of_head(walk, item);
	size = w.root > 0 ? &w.root : &w.current;
	while (jspGetNext(item, &accessor))
	{
		JsonPathItem arg;
		JsonPathItem to;
		Work		inner;

		walk->nitems++;
		switch (accessor.type)
		{
			case jpiAny:
				/* what is deep is found once for each level above it */
				(*size)++;
				w.many = true;
				break;
			case jpiKeyValue:
				/* an object for each of three keys, the next time */
				walk->times *= 3;
				w.many = true;
				break;
			case jpiAnyArray:
			case jpiAnyKey:
				w.many = true;
				break;
			case jpiIndexArray:
				walk->times *= accessor.content.array.nelems;
				w.many = w.many || accessor.content.array.nelems > 1;
				for (int i = 0; i < accessor.content.array.nelems; i++)
				{
					if (jspGetArraySubscript(&accessor, &arg, &to, i))
					{
						w.many = true;
						inner = work_of(walk, &to);
						*size += inner.current + inner.root;
					}
					inner = work_of(walk, &arg);
					*size += inner.current + inner.root;
				}
				break;
			case jpiFilter:
				/* together the values are as large as what they are in */
				jspGetArg(&accessor, &arg);
				inner = work_of(walk, &arg);
				*size += Max(inner.current, 1) - 1;
				w.root += inner.root;
				break;
#if PG_VERSION_NUM >= 170000
			case jpiDecimal:
			case jpiNumber:
				walk->converts = true;
				break;
#endif
			default:
				break;			/* a key, or another method */
		}
		*item = accessor;
	}
	return w;
}

/* The size of the largest number in JSON, or of the largest string, if numbers are made of such. */
static Size
largest_number(Jsonb *json, bool strings)
{
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	Size		largest = 0;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (token != WJB_VALUE && token != WJB_ELEM)
			continue;
		if (v.type == jbvNumeric)
			largest = Max(largest, VARSIZE_ANY(v.val.numeric));
		else if (v.type == jbvString && strings)
			largest = Max(largest, v.val.string.len);
	}
	return largest;
}

/*
 * How much more work there is since numbers are multiplied: each product is as large
 * as both factors together.
 */
static double
work_to_multiply(const Walk *walk, Jsonb *from)
{
	double		size;

	if (walk->products == 0)
		return 1;
	size = Max(walk->largest, largest_number(from, walk->converts));
	return pow(1 + walk->products * size / BYTES_PER_VALUE, 2);
}

/* Raise an error if it could take too long to follow a path. */
static void
check_work(Jsonb *from, JsonPath *path, const char *string)
{
	JsonPathItem item;
	Walk		walk = {.lax = (path->header & JSONPATH_LAX) != 0,.times = 1};
	Work		w;

	jspInit(&item, path);
	w = work_of(&walk, &item);
	if (pow(VARSIZE(from) / BYTES_PER_VALUE + 1, w.current + w.root) * walk.times * work_to_multiply(&walk, from) *
		(walk.nitems / 16 + 1) > MOST_WORK)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("a jsonpath could take too long over JSON of %zu bytes", (size_t) VARSIZE(from)),
				 errdetail("The jsonpath is %s.", string),
				 errhint("The work is multiplied by a comparison of two paths, unless it is \"strict\" and of single values, and by \".**\", \"like_regex\", products of large numbers and \"$\" in a filter; of a pattern that refers back, or looks around, it has no bound.")));
}

/*
 * The first value that a jsonpath finds; NULL: none.  Raises 54000 if it could take too
 * long, and the errors that jsonpath does not keep silent about.
 */
Jsonb *
jobq_path_first(Jsonb *from, const char *string)
{
	LOCAL_FCINFO(fcinfo, 4);
	Jsonb	   *none = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	JsonPath   *path = DatumGetJsonPathP(DirectFunctionCall1(jsonpath_in, CStringGetDatum(string)));
	Datum		found;

	check_work(from, path, string);
	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(from);
	fcinfo->args[1].value = PointerGetDatum(path);
	fcinfo->args[2].value = JsonbPGetDatum(none);
	fcinfo->args[3].value = BoolGetDatum(true);
	for (int i = 0; i < 4; i++)
		fcinfo->args[i].isnull = false;
	found = jsonb_path_query_first(fcinfo);
	return fcinfo->isnull ? NULL : DatumGetJsonbP(found);
}
