#!/bin/sh
# Installs what `python -m browser` needs beside Python: Chromium, and the npm packages of
# package-lock.json into node_modules. Does nothing if both are there.
set -eu
cd "$(dirname "$0")"

if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null &&
  ! command -v google-chrome-stable >/dev/null; then
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing Chromium …"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends chromium >/dev/null
  else
    echo "error: Chromium is missing: install it (on Debian: apt install chromium)" >&2
    exit 1
  fi
fi

if ! cmp -s package-lock.json node_modules/.installed; then
  command -v npm >/dev/null || {
    echo "error: npm is missing: install Node.js 18 or newer with npm" >&2
    exit 1
  }
  echo "installing the frontends …"
  npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
  cp package-lock.json node_modules/.installed
fi
