# A WfFormat file as the document of a flow, for job_submit_flow.  README.md has
# what becomes of what, and the arguments.
include "tasks" {search: "./"};

$ARGS.named as $given
| {
	name,
	queue: $given.queue,
	defaults: {kind: ($given.kind // "task"), queue: $given.queue},
	jobs: (tasks | map({
		name: .key,
		depends_on: (.parents | if . == [] then null else . end),
		priority,
		args: ({task: .name} + .args)
	}))
  }
| del(.. | select(. == null))
