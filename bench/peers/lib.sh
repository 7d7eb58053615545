# shellcheck shell=bash disable=SC2154,SC2034  # sourced by bench/run
# The peers that come from npm.

peers=$WORK/npm

# peers_install: into the work folder, where they stay; sets no_peers to the
# reason if they are not there
peers_install() {
	no_peers=
	mkdir -p "$peers"
	if ! cmp -s bench/peers/package.json "$peers/installed.json"; then
		cp bench/peers/package.json "$peers/"
		if ! npm --prefix "$peers" install --no-package-lock --no-audit --no-fund \
			>"$WORK/npm.log" 2>&1 9<&-; then
			no_peers="npm install failed: $(tail -n 1 "$WORK/npm.log")"
			return
		fi
		cp "$peers/package.json" "$peers/installed.json"
	fi
	export NODE_PATH=$peers/node_modules
}

# peer NAME MODE COUNT: runs one of them; see its file
peer() {
	ARGS=$args DATABASE_URL="postgres://$PGUSER@/$PGDATABASE?host=$PGHOST&port=$PGPORT" \
		timeout 120 node "bench/peers/$1.js" "${@:2}" 9<&-
}
