# An Azkaban flow as the document of a flow, for job_submit_flow: a flow file of
# Flow 2.0, made JSON by yaml2json, or a flow of version 1, which is JSON.
# README.md has what becomes of what, why, and the arguments.

# what is given; in YAML, nothing is an empty string
def present: if . == "" then null else . end;

# without repetitions
def distinct:
	reduce .[] as $x ({seen: {}, all: []}; if .seen[$x] then . else .seen[$x] = true | .all += [$x] end)
	| .all;

#
# Conditions
#

# A comparison {param, op, number or string} as a jsonpath over the result of the
# job.  To Azkaban all values are strings; in a result they can be of other types.
def jsonpath:
	"$.\(.param | tojson)" as $value
	| def compare($op):
		if .number then
			"\($value).double() \($op) \(.number | tonumber)"
		else
			"\($value) \($op) \(.string | tojson)"
			+ if $op == "==" and (.string | test("^(?:-?(?:0|[1-9][0-9]*)(?:\\.[0-9]+)?|true|false|null)$")) then
				" || \($value) == \(.string)"
			  else
				""
			  end
			# what a job has not put out is 'null'
			+ if $op == "==" and .string == "null" then " || !exists(\($value))" else "" end
		end;
	if .op == "!=" then
		compare("==") | "!(\(.)) || (\(.)) is unknown"
	else
		compare(.op)
	end;

# What the condition of a node says: {rule, when: {job: jsonpath}}.
def parse_condition:
	def refuse($why): error("node \"\(.name)\": condition \(.condition | tojson): \($why)");
	("^\\s*(?:(?<rule>all_success|all_done|all_failed|one_success|one_failed)"
		+ "|\\$\\{(?<job>[^:{}]+):(?<param>[^:{}]+)\\}\\s*(?<op>==|!=|>=|<=|>|<)\\s*"
		+ "(?:(?<number>[0-9]+)|'(?<single>[^']*)'|\"(?<double>[^\"]*)\"))\\s*$") as $term
	| (.condition | present // "all_success" | split("&&")) as $terms
	| if all($terms[]; test($term; "i")) then . else
		refuse("what can be converted is one macro and comparisons of what jobs put out with numbers and strings, joined by &&")
	  end
	| ($terms | map(capture($term; "i") | .string = (.single // .double))) as $terms
	| ($terms | map(.rule | values | ascii_downcase)) as $rules
	| if ($rules | length) > 1 then refuse("it has more than one macro") else . end
	| {
		rule: ($rules[0] // "all_success"),
		when: ($terms | map(select(.job)) | group_by(.job)
			| map({(.[0].job): (map(jsonpath) | if length > 1 then map("(\(.))") | join(" && ") else .[0] end)})
			| add // {})
	  };

# The names of nodes that can end as skipped, as keys.
def skippable:
	. as $nodes
	| def more:
		. as $before
		| reduce $nodes[] as $node (.;
			. as $set
			| if ($node.rule | . == "all_success" or . == "one_success") and any($node.parents[]; $set[.]) then
				.[$node.name] = true
			  else
				.
			  end)
		| if . == $before then . else more end;
	map(select(.when != {} or (.parents != [] and (.rule | . == "all_failed" or . == "one_failed"))) | {(.name): true})
	| add // {}
	| if . == {} then . else more end;

#
# Flows
#

# A flow of version 1 as one of Flow 2.0.
def with_parents:
	(reduce .edges[] as $edge ({}; .[$edge.target] += [$edge.source])) as $parents
	| (($parents | keys) - [.nodes[].id]) as $unknown
	| if $unknown == [] then . else error("there is no node \"\($unknown[0])\", to which an edge leads") end
	| .nodes |= map(
		if .embeddedFlowId then error("node \"\(.id)\": its flow \"\(.embeddedFlowId)\" is not in this file") else . end
		| {name: .id, type: .jobType, condition, dependsOn: $parents[.id]});

# The properties of a flow or a job, over those of the flow around it.
def properties($outer; $path):
	$outer + (.config | present // {}) + ($ARGS.named.config[$path] // {});

# As args, which are no reference.
def literally: if any(keys[]; startswith("$")) then {"$literal": .} else . end;

# How often a job is tried; how long it waits then.
def attempts($properties; $path):
	def number($key):
		$properties[$key] | present // 0 | tostring
		| if test("^[0-9]+$") then tonumber else error("node \"\($path)\": \"\($key)\" is no whole number: \"\(.)\"") end;
	if number("retries") > 0 then
		{max_attempts: (number("retries") + 1), backoff: "\([number("retry.backoff"), 1] | max) ms"}
	else
		{}
	end;

# What makes a flow fail that has an end which was skipped, since Azkaban kills it
# then: a flow that starts only in this case, and has no time for what nobody does.
def guard($ends; $skippable):
	def cancelled($what): {
		name: "an end was cancelled",
		depends_on: [$what],
		trigger_rule: "all_skipped",
		timeout: "1 ms",
		jobs: [{name: "nothing", kind: "nothing", manual: true}]
	};
	if any($ends[]; $skippable[.]) | not then
		empty
	elif ($ends | length) == 1 then
		cancelled($ends[0])
	else
		# this one is skipped once all ends are decided
		{name: "all ends", depends_on: $ends, jobs: []}, cancelled("all ends")
	end;

# The keys of a flow that follow from its nodes and its properties.
def flow($outer; $path):
	properties($outer; $path) as $properties
	| (.nodes | present // []
		| map(
			if .name | type == "string" then . else error("a node of \"\($path)\" has no name") end
			| .parents = (.dependsOn | present // [])
			| . + parse_condition)) as $nodes
	| (reduce $nodes[] as $node ({}; reduce $node.parents[] as $parent (.; .[$parent] += [$node.rule]))) as $followers
	| ($nodes | skippable) as $skippable
	| [$nodes[].name | select($followers[.] == null)] as $ends
	| def gate: "\(.name): \(.rule)";
	def refuse($why): error("node \"\(.name)\": \($why)");
	def member:
		(if $path == "" then .name else "\($path):\(.name)" end) as $path
		| if .parents == [] and (.rule | startswith("one_")) then
			refuse("it has \(.rule) and depends on nothing, so it never runs")
		  elif (.rule | endswith("_failed")) and any(.parents[]; $skippable[.]) then
			refuse("it has \(.rule), for which one that was cancelled by its condition has failed, and \(first(.parents[] | select($skippable[.])) | tojson) can be")
		  else
			.
		  end
		| (.when != {} and .parents != [] and .rule != "all_success") as $gated
		| {
			name,
			depends_on: ((if $gated then [gate] else .parents end) + (.when | keys) | distinct | if . == [] then null else . end),
			trigger_rule: (if .parents == [] or $gated or .rule == "all_success" then null else .rule end),
			when: (.when | if . == {} then null else . end)
		  }
		+ if .type == "flow" then
			flow($properties; $path)
		  else
			properties($properties; $path) as $properties
			| {
				kind: .type,
				# its failure is that of the flow if it is an end, or another needs its success
				critical: ($followers[.name] | if . == null or any(.[]; . == "all_success") then null else false end),
				args: ($properties | literally)
			  }
			+ attempts($properties; $path)
		  end;
	{
		args: ($properties | literally),
		on_failure: ($properties["failure.action"]
			| if . then {finish_all_possible: "continue", cancel_all: "cancel"}[.] // "drain" else null end),
		jobs: [
			($nodes[] | member),
			# a rule and conditions on results are met one after the other
			($nodes[] | select(.when != {} and .parents != [] and .rule != "all_success")
				| {name: gate, depends_on: .parents, trigger_rule: .rule, critical: false, jobs: []}),
			guard($ends; $skippable)
		],
		result: (if ($ends | length) == 1 then {"$result": $ends[0]} else null end)
	};

if type != "object" or (.nodes | type) != "array" then error("not an Azkaban flow: it has no nodes") else . end
| if .edges then with_parents else . end
| {name: ($ARGS.named.name // .id), queue: $ARGS.named.queue, defaults: {queue: $ARGS.named.queue, max_attempts: 1}}
	+ flow({}; "")
| del(.. | select(. == null))
