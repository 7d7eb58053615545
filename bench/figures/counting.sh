# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# What counting for metrics costs a job: the instructions of a session, with the
# library and with one that counts nothing, by turns, each on a copy of one cluster.
# Time on a shared machine does not show two percent; valgrind shows a tenth of one.

names=('claim + complete, one each' 'claim + complete, batches of 100' 'submit, one each')
scripts=(jobq_one jobq_batch jobq_submit)
times=(200 10 200)
declare -A cost
turns=$((quick ? 1 : 3))
lib=$tree$("$PG_CONFIG" --pkglibdir)/jobq.so

# libraries: counting.so and none.so
libraries() {
	cp "$lib" "$out/counting.so"
	cp -r "$WORK/src" "$out"
	find "$out/src" \( -name '*.o' -o -name '*.so' \) -delete
	make -C "$out/src" -j "$(nproc)" PG_CONFIG="$PG_CONFIG" WERROR= ${CC:+"CC=$CC"} \
		COPT="${COPT:-} -include bench/uncounted.h" jobq.so >"$out/build.log" 2>&1
	cp "$out/src/jobq.so" "$out/none.so"
}

# start LIBRARY OPTION ...: the server with it, on a copy of the cluster
start() {
	rm -rf "$WORK/pgdata"
	cp -r "$out/filled" "$WORK/pgdata"
	cp "$out/$1.so" "$lib"
	"$bin/pg_ctl" -D "$WORK/pgdata" -l "$WORK/server.log" -w -t 60 "${@:2}" start >/dev/null 2>&1 9<&-
}

stop() {
	"$bin/pg_ctl" -D "$WORK/pgdata" -w -t 60 stop >/dev/null
}

# session NAME SCRIPT TIMES: by whose end the server's log has its process id
session() {
	PGAPPNAME=$1 PGOPTIONS='-c log_disconnections=on' bench 1 "$2" -t "$3" >/dev/null
}

# instructions NAME: of the sessions of this name
instructions() {
	sed -n "s/.* \[\([0-9]*\)\] $1 LOG:  disconnection: .*/\1/p" "$WORK/server.log" | while read -r pid; do
		sed -n 's/^totals: //p' "$out/callgrind.$pid"
	done | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}

# side NUMBER LIBRARY: each script some times, and three times as often; the
# beginning of a session is no part of the difference
side() {
	local i name few counted
	start "$2" -p "$out/callgrind" -o '-c autovacuum=off'
	for i in "${!scripts[@]}"; do
		name=$1-$2-${scripts[i]}
		session "$name-few" "${scripts[i]}" "${times[i]}"
		session "$name-many" "${scripts[i]}" $((times[i] * 3))
	done
	counted=$(sql -c "SELECT sum(value) FROM job_metrics WHERE name IN ('jobq_submitted_total', 'jobq_attempts_total')")
	stop
	case $2-$counted in
		none-0 | counting-[1-9]*) ;;
		*) die "With library $2, ${counted:-nothing} was counted." ;;
	esac
	for i in "${!scripts[@]}"; do
		name=$1-$2-${scripts[i]}
		few=$(instructions "$name-few")
		cost[$2,$i]=$((($(instructions "$name-many") - few) / 2 / times[i]))
	done
}

if ! command -v valgrind >/dev/null; then
	for name in "${names[@]}"; do
		missing "$name, added by counting" % '<=2' 'valgrind is not installed'
	done
	return
fi
cat >"$out/callgrind" <<-END
	#!/bin/sh
	exec valgrind -q --tool=callgrind --callgrind-out-file='$out/callgrind.%p' '$bin/postgres' "\$@"
END
chmod 755 "$out/callgrind"
libraries
fresh
jobq_fill bench 6000
stop
mv "$WORK/pgdata" "$out/filled"
for ((turn = 0; turn < turns; turn++)); do
	side "$turn" counting
	side "$turn" none
	for i in "${!names[@]}"; do
		sample "${names[i]}" "${cost[counting,$i]}"
		sample "${names[i]}: counting" "$(awk "BEGIN { print (${cost[counting,$i]} / ${cost[none,$i]} - 1) * 100 }")"
	done
done
start counting
for name in "${names[@]}"; do
	figure "$name, instructions" 1/call - "$name"
	figure "$name, added by counting" % '<=2' "$name: counting"
done
