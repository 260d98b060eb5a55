#!/bin/sh
# Debian packages that some tests drive. Without them those tests skip and say which one they miss.
missing=""
command -v redis-server >/dev/null || missing="$missing redis-server"
command -v chromium >/dev/null || missing="$missing chromium"
command -v strace >/dev/null || missing="$missing strace"
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed:$missing; the tests that need them will skip (as root, on Debian, make test installs them)"
  exit 0
fi
echo "installing$missing"
if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
  exit 0
fi
echo "could not install$missing; the tests that need them will skip"
