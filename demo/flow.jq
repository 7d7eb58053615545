# A WfFormat file as tasks {id, label, level, parents, seconds}.
# $budget: the seconds that all of it may take on $slots commands at a time.
include "tasks" {search: "../contrib/flows"};

# the longest path to each task, one level of the graph after the other
def levels:
	{level: {}, left: ., n: 0}
	| until(.left == [];
		.level as $level
		| (.left | map(select(all(.parents[]; $level[.] != null)))) as $next
		| if $next == [] then error("its tasks depend on each other in a cycle") else . end
		| (.n) as $n
		| .level += ($next | map({(.id): $n}) | add)
		| .left -= $next
		| .n += 1)
	| .level;

(tasks | map({id: .key, label: .name, parents, seconds: (.args.runtimeInSeconds // 1)})) as $tasks
| ($tasks | map({id, parents}) | levels) as $level
| ($tasks | map(.level = $level[.id])) as $tasks
# no schedule takes longer than the work shared evenly plus each level's longest
| (($tasks | map(.seconds) | add) / $slots
	+ ($tasks | group_by(.level) | map(map(.seconds) | max) | add)) as $longest
| ([1, $budget / ([$longest, 0.001] | max)] | min) as $scale
| {$scale, tasks: $tasks | map(.seconds |= (. * $scale * 1000 | round / 1000))}
