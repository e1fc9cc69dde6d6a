#!/usr/bin/env bash
# Installs what a group of tasks needs from Debian's packages; silent where nothing is missing.
# usage: tools/install-packages.sh GROUP ...      groups: build test mpi fuzz web lint deb
set -euo pipefail

# ocl-icd-opencl-dev: the CMake package of libdnnl-dev asks for OpenCL without depending on it.
build=(g++ cmake ninja-build pkg-config libhwy-dev libdnnl-dev ocl-icd-opencl-dev nlohmann-json3-dev libcli11-dev
       libyaml-cpp-dev libfmt-dev libpcre2-dev libzstd-dev zlib1g-dev libboost-dev)

wanted=()
for group in "${@:-}"; do
  case "$group" in
    build) wanted+=("${build[@]}") ;;
    # nodejs and npm: public tokenizers to compare with; strace: the order of writes; qemu-user: a processor without AVX2.
    test) wanted+=("${build[@]}" libgtest-dev ca-certificates nodejs npm strace qemu-user) ;;
    mpi) wanted+=(libopenmpi-dev openmpi-bin) ;;
    fuzz) wanted+=("${build[@]}" clang-14 libclang-rt-14-dev libomp-14-dev) ;;
    # prometheus: its promtool, which says whether /metrics is well-formed.
    web) wanted+=(nodejs npm chromium ca-certificates prometheus) ;;
    lint) wanted+=(clang-format-14 universal-ctags) ;;
    deb) wanted+=("${build[@]}" dpkg-dev file) ;;
    *) echo "$0: '$group': expected build, test, mpi, fuzz, web, lint or deb" >&2; exit 2 ;;
  esac
done

# Programs from elsewhere count: another Node.js brings its own npm, which Debian's would clash with.
present() {
  case "$1" in
    nodejs) command -v node ;;
    npm | strace) command -v "$1" ;;
    *) [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
  esac >/dev/null
}

missing=()
for name in $(printf '%s\n' "${wanted[@]}" | sort -u); do
  present "$name" || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
for program in apt-get "${as_root[@]}"; do
  if ! command -v "$program" >/dev/null; then
    echo "$0: expected $program; please install what corresponds to Debian's ${missing[*]}" >&2
    exit 1
  fi
done

echo "installing with ${as_root[*]:+sudo }apt-get: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"
}
install() { apt install -y --no-install-recommends "${missing[@]}"; }

# The package lists are fetched only where they are absent or too old to install from.
if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 || ! install >"$log" 2>&1; then
  if ! { apt update && install; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "$0: apt-get could not install ${missing[*]}" >&2
    exit 1
  fi
fi
