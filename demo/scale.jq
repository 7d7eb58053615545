# How much faster than the document of a flow says its jobs are to be done, so that
# all of them take $budget seconds on $slots commands at a time: 1 at most.
include "levels" {search: "./"};

def seconds: (.args | objects | .runtimeInSeconds | numbers) // 1;

def all_seconds: if .jobs then .jobs | map(all_seconds) | add // 0 else seconds end;

# the longest of each level, one after the other
def longest:
	if .jobs then
		(.jobs | to_entries | map({
			id: (.value.name // "#\(.key)"),
			parents: ((.value.depends_on // []) | map(strings)),
			seconds: (.value | longest)
		  })) as $jobs
		| ($jobs | map({id, parents}) | levels) as $level
		| $jobs | group_by($level[.id]) | map(map(.seconds) | max) | add // 0
	else
		seconds
	end;

# no schedule takes longer than the work shared evenly plus each level's longest
[1, $budget / ([all_seconds / $slots + longest, 0.001] | max)] | min
