# shellcheck shell=bash
# Sourced by test/run, demo/run, demo/try and bench/run, which tools/prepare starts: builds this
# copy of the clone into a private copy of the server, and starts and stops
# servers, all below $WORK.

set -euo pipefail
: "${WORK:?is set by tools/prepare}" "${PG_CONFIG:?is set by tools/prepare}"

die() {
	printf '%s\n' "$@" >&2
	exit 1
}

# The server finds its share folder relative to its program, so a copy below
# another root works like the original, and so does DESTDIR.
bindir=$("$PG_CONFIG" --bindir)
sharedir=$("$PG_CONFIG" --sharedir)
tree=$WORK/tree
bin=$tree$bindir

# build: brings the private tree up to date
build() {
	local stamp dir
	stamp="$PG_CONFIG, $("$PG_CONFIG" --version), ${CC:-} ${COPT:-} ${PROFILE:-}"
	if [ "$(cat "$WORK/stamp" 2>/dev/null)" != "$stamp" ]; then
		rm -rf "$tree" "$WORK/stamp"
		find "$WORK/src" -name '*.o' -delete
		for dir in "$bindir" "$sharedir" "$("$PG_CONFIG" --pkglibdir)"; do
			mkdir -p "$tree$dir"
			cp -a "$dir/." "$tree$dir"
		done
		[ "$("$bin/pg_config" --sharedir)" = "$tree$sharedir" ] ||
			die "The server of $PG_CONFIG cannot be copied: it is not relocatable."
		printf '%s\n' "$stamp" >"$WORK/stamp"
	fi
	rm -f "$tree$sharedir"/extension/jobq[-.]*
	make -C "$WORK/src" -j "$(nproc)" PG_CONFIG="$PG_CONFIG" DESTDIR="$tree" \
		${CC:+"CC=$CC"} install >"$WORK/build.log" 2>&1 || {
		tail -n 60 "$WORK/build.log" >&2
		die "The build failed."
	}
}

# server_start CONF: a new cluster, with CONF added to its settings
server_start() {
	local log=$WORK/initdb.log
	rm -rf "$WORK/pgdata" "$WORK/run"
	mkdir -m 700 "$WORK/run"
	export PGHOST=$WORK/run PGPORT=54329 PGUSER=postgres PGDATABASE=postgres
	"$bin/initdb" -D "$WORK/pgdata" -U postgres -A trust --no-sync \
		--encoding=UTF8 --locale=C.UTF-8 --lc-messages=C >"$log" 2>&1 || {
		tail -n 30 "$log" >&2
		die "initdb failed."
	}
	cat - "$1" >>"$WORK/pgdata/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$WORK/run'
		port = $PGPORT
	CONF
	"$bin/pg_ctl" -D "$WORK/pgdata" -l "$WORK/server.log" -w -t 60 start \
		>"$log" 2>&1 9<&- || {
		tail -n 30 "$log" "$WORK/server.log" >&2
		die "The server did not start."
	}
}

# server_stop: the one of server_start, and those that a killed run left
server_stop() {
	local pidfile dir pid
	while read -r pidfile; do
		dir=$(dirname "$pidfile")
		pid=$(head -n 1 "$pidfile") || continue
		[ "$(readlink "/proc/$pid/cwd")" = "$dir" ] || continue
		"$bin/pg_ctl" -D "$dir" -m "${1:-fast}" -w -t 60 stop >/dev/null 2>&1 || true
	done < <(find "$WORK" -name postmaster.pid 2>/dev/null)
	[ -e "$WORK/pgdata/postmaster.pid" ] || rm -rf "$WORK/pgdata"
}

mkdir -p "$TMPDIR"
export PATH="$bin:$PATH"
