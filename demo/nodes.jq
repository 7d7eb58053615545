# The jobs {id, name, flow, depends_on, undo_of} inside flow $flow, and those that
# undo it, all ids as strings, as lines for demo/graph: {nodes, edges}.
include "levels" {search: "./"};

(map(select(.flow)) | group_by(.flow) | map({(.[0].flow): map(.id)}) | add // {}) as $members
| (map(.depends_on[]?) | map({(.): true}) | add // {}) as $needed
# what comes after a flow comes after what ends it
| def ends: . as $id | if $members[$id] then $members[$id][] | select($needed[.] | not) | ends else $id end;
map({
	id,
	name,
	parents: (
		[.depends_on[]? | ends]
		# in no flow is only what undoes one
		+ if .flow == null then [.undo_of | strings | ends]
		elif .flow != $flow and (.depends_on // []) == [] then [.flow]
		else [] end)
  })
| (map(.id) | map({(.): true}) | add // {}) as $here
| map(.parents |= map(select($here[.])))
| (map({id, parents}) | levels) as $level
| {
	nodes: map([.id, .name, $level[.id]] | @tsv),
	edges: map(.id as $id | .parents[] | [., $id] | @tsv)
  }
