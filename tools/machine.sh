# shellcheck shell=bash
# Sourced by tools/try-machines and test/versions/run: Debian roots below
# /var/tmp, and what is run in them. Needs root and debootstrap.

set -euo pipefail
if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
	echo 'This needs root and debootstrap (apt-get install debootstrap).' >&2
	exit 2
fi

# machine_make SUITE DIR PACKAGES: a root, unless it is there from the last
# time, which has the packages (a list with commas), and takes others from
# where apt takes them here
machine_make() {
	local mirror release
	[ ! -e "$2/.complete" ] || return 0
	# shellcheck disable=SC2016  # apt-get's
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
	# shellcheck source=/dev/null
	release=$(. /etc/os-release && echo "$VERSION_CODENAME")
	rm -rf "$2"
	mkdir -p "$2"
	debootstrap --variant=minbase --include="$3" "$1" "$2" "$mirror"
	rm -f "$2/etc/apt/sources.list"
	cp -a /etc/apt/. "$2/etc/apt"
	find "$2/etc/apt" \( -name '*.list' -o -name '*.sources' \) \
		-exec sed -i "s/\b$release\b/$1/g" {} +
	# beside sid there are neither updates nor security
	if [ "$1" = sid ]; then
		find "$2/etc/apt" \( -name '*.list' -o -name '*.sources' \) -delete
		echo "deb $mirror sid main" >"$2/etc/apt/sources.list"
	fi
	# it is not worth the wait for the disk, and its servers are not started
	echo force-unsafe-io >"$2/etc/dpkg/dpkg.cfg.d/unsafe-io"
	printf '#!/bin/sh\nexit 101\n' >"$2/usr/sbin/policy-rc.d"
	chmod 755 "$2/usr/sbin/policy-rc.d"
	touch "$2/.complete"
}

# machine_clone DIR: the files of this clone, as they are now
machine_clone() {
	rm -rf "$1"
	mkdir -p "$1"
	git ls-files -z | tar --null -T - -cf - | tar -C "$1" --no-same-owner -xf -
}

# machine_run ROOT COMMAND ...: in namespaces of its own, so that no process
# and no mount is left. mounts is run before, first is the first process.
mounts=:
first=(tools/reap)
machine_run() {
	cp /etc/resolv.conf /etc/hosts "$1/etc"
	# shellcheck disable=SC2016  # for the inner shell
	unshare --mount --pid --fork --kill-child "${first[@]}" bash -ec '
		mount -t proc proc "$0/proc"
		mount --rbind /dev "$0/dev"
		eval "$1"
		exec chroot "$0" "${@:2}"' "$1" "$mounts" "${@:2}"
}
