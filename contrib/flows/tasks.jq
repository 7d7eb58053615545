# What a WfFormat file says of its tasks, the same for all its versions; for
# wfformat.jq.

# [{key, name, parents, priority, args}]: parents are keys, and args is what a
# worker can use, by its names in version 1.5
def tasks:
	def task($key; $name):
		{
			key: $key,
			name: ($name // $key),
			parents: (.parents // []),
			priority,
			args: ({command, inputFiles, outputFiles, coreCount, runtimeInSeconds} | with_entries(select(.value != null)))
		};
	.workflow as $workflow
	| ($workflow.execution.tasks // [] | INDEX(.id)) as $execution
	| if $workflow.specification.tasks then
		$workflow.specification.tasks | map(. + ($execution[.id] // {}) | task(.id; .name))
	  elif $workflow.tasks // $workflow.jobs then
		# up to version 1.4 parents are names, and all of a task stands in one place
		$workflow.tasks // $workflow.jobs
		| map(. + {
			command: (.command // if .arguments then {arguments} else null end),
			inputFiles: [.files[]? | select(.link == "input").name],
			outputFiles: [.files[]? | select(.link == "output").name],
			coreCount: .cores,
			runtimeInSeconds: (.runtimeInSeconds // .runtime)
		  } | task(.name; .category))
	  else
		error("not a WfFormat file: it has no tasks")
	  end;
