# Jobs {id, parents} with their level: that of the longest path to each, from 0 on.
def levels:
	{level: {}, left: ., n: 0}
	| until(.left == [];
		.level as $level
		| (.left | map(select(all(.parents[]; $level[.] != null)))) as $next
		| if $next == [] then error("its jobs depend on each other in a cycle") else . end
		| (.n) as $n
		| .level += ($next | map({(.id): $n}) | add)
		| .left -= $next
		| .n += 1)
	| .level;
