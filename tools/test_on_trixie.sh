#!/usr/bin/env bash
# Runs pytest with the given arguments on Debian trixie's Python, in a chroot.
#
#   tools/test_on_trixie.sh tests --ignore=tests/end_to_end
#   tools/test_on_trixie.sh --check       # only whether this machine can
#
# debootstrap makes the base system once, in .gateway/trixie, from the mirror in MIRROR.
# After `rm -rf .gateway/trixie` the next run makes it again. All mounts are in a mount
# namespace of this script, so that the kernel removes them however the script ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

base=$PWD/.gateway/trixie
mirror=${MIRROR:-http://deb.debian.org/debian}

fail() {
  echo "error: $*" >&2
  exit 1
}

((EUID == 0)) || fail "a chroot needs root: run this as root, or with sudo"
for command in debootstrap unshare chroot; do
  command -v "$command" >/dev/null ||
    fail "$command is missing: apt-get install debootstrap util-linux coreutils"
done

[[ ${1-} != --check ]] || exit 0
if [[ ${1-} != --inside ]]; then
  exec unshare --mount --propagation private "$0" --inside "$@"
fi
shift

if [[ ! -e $base/.made ]]; then
  echo "making $base …"
  rm -rf --one-file-system "$base"
  mkdir -p "$base"
  debootstrap --variant=minbase --include=ca-certificates,git,make,python3,python3-venv \
    trixie "$base" "$mirror" >"$base.log" ||
    fail "debootstrap failed; the reason is at the end of $base.log"
  touch "$base/.made"
fi

# The host's names and certificate authorities, for pip behind a proxy of its own.
cp --dereference /etc/resolv.conf /etc/hosts "$base/etc/"
if [[ -r /etc/ssl/certs/ca-certificates.crt ]]; then
  cp /etc/ssl/certs/ca-certificates.crt "$base/etc/ssl/certs/"
fi
mkdir -p "$base/src"
mount --bind "$PWD" "$base/src"
mount -t proc proc "$base/proc"
mount --rbind /sys "$base/sys"
mount --rbind /dev "$base/dev"
mount -t tmpfs tmpfs "$base/tmp"

inside=(chroot "$base" env -i HOME=/root LANG=C.UTF-8 PATH=/venv/bin:/usr/bin:/usr/sbin)
for name in http_proxy https_proxy no_proxy PIP_INDEX_URL PIP_DEFAULT_TIMEOUT; do
  if [[ -n ${!name-} ]]; then
    inside+=("$name=${!name}")
  fi
done

# shellcheck disable=SC2016 # expanded inside
exec "${inside[@]}" bash -c '
  set -euo pipefail
  cd /src
  [[ -x /venv/bin/pip ]] || python3 -m venv --clear /venv
  pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --upgrade "pip>=25.1"
  pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --editable . --group tests
  python --version
  exec python -m pytest -p no:cacheprovider "$@"
' bash "$@"
