#!/usr/bin/env bash
# Makes everything the example needs, and skips what is already there:
#   system packages   a JRE, xmllint, lsof, mpirun, ... (apt-get when root, else one command to run)
#   .venv             Python 3.9 with the packages locked in requirements*.txt
#   build/kafka       Apache Kafka's jars, pinned in pom.xml
#   build/native      the native parts of a training step
# Called by the Makefile before every target; a second run takes well under two seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly UV_VERSION=0.13.9
readonly STAMPS=build/stamps
readonly NATIVE_SOURCES=(src/model/native/*.cc)
readonly NATIVE_FILES=(src/model/native/*) # with what the sources include
readonly NATIVE_LIBRARY=build/native/libstep.so
readonly NO_PYTHON="no Python 3.9 to be had (on PATH, under pyenv or through uv): install it and run again"
readonly REQUIREMENTS=(requirements.txt requirements-serve.txt requirements-dev.txt)

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# --- stamps: a finished part is remembered by a checksum of the files that describe it ---

checksum() { cat -- "$@" | sha256sum | cut -d ' ' -f 1; }

is_stamped() { # NAME FILE...
  local name=$1; shift
  [[ -f $STAMPS/$name && $(<"$STAMPS/$name") == "$(checksum "$@")" ]]
}

write_stamp() { # NAME FILE...
  local name=$1; shift
  mkdir -p "$STAMPS"
  checksum "$@" >"$STAMPS/$name"
}

# --- system packages ---

kafka_is_ready() {
  is_stamped kafka pom.xml && compgen -G 'build/kafka/kafka_2.13-*.jar' >/dev/null
}

has_libgomp() { # MindSpore's libraries link to it
  [[ $(PATH=$PATH:/sbin ldconfig -p) == *libgomp.so.1* ]]
}

missing_packages() { # prints the Debian names of what this machine lacks, one a line
  command -v java >/dev/null || echo default-jre-headless
  kafka_is_ready || command -v mvn >/dev/null || echo maven
  command -v xmllint >/dev/null || echo libxml2-utils   # `yrctl start` reads its config with it
  command -v lsof >/dev/null || echo lsof               # `yrctl start` looks at ports with it
  command -v ps >/dev/null || echo procps               # `yrctl stop` finds processes with it
  command -v hostname >/dev/null || echo hostname       # `yrctl start` asks it for addresses
  has_libgomp || echo libgomp1
  native_is_ready || command -v g++ >/dev/null || echo g++
  command -v mpirun >/dev/null || echo openmpi-bin      # one of the two launchers of many ranks
}

install_system_packages() {
  local packages
  mapfile -t packages < <(missing_packages)
  (( ${#packages[@]} )) || return 0
  command -v apt-get >/dev/null ||
    die "please install the equivalents of these Debian packages and run again: ${packages[*]}"
  (( EUID == 0 )) ||
    die "please run this and then start again: sudo apt-get install -y ${packages[*]}"
  say "installing system packages: ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

# --- Python ---

is_python39() { # a pyenv shim exists for every version but runs only the selected ones
  "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 9))' >/dev/null 2>&1
}

find_python39() { # prints the path of a Python 3.9 that really runs
  local candidate
  for candidate in python3.9 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.9*/bin/python3.9 python3 python; do
    if is_python39 "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

find_uv() { # prints the path of uv: the user's, or one installed privately under build/uv
  local python
  if command -v uv; then return; fi
  for python in "$(find_python39 || true)" python3 python; do
    [[ -x build/uv/bin/uv ]] && break
    [[ -n $python ]] || continue
    rm -rf build/uv
    { "$python" -m venv build/uv && build/uv/bin/python -m pip install -q "uv==$UV_VERSION"; } \
      >/dev/null 2>&1 || true
  done
  [[ -x build/uv/bin/uv ]] && echo build/uv/bin/uv
}

make_venv() { # UV, which may be empty
  local uv=$1 python
  is_python39 .venv/bin/python && return
  if python=$(find_python39); then
    say "making .venv with $python"
    if [[ -n $uv ]]; then
      "$uv" venv -q --clear --python "$python" .venv
    else
      "$python" -m venv --clear .venv
    fi
  elif [[ -n $uv ]]; then
    say "making .venv with a Python 3.9 provided by uv"
    "$uv" venv -q --clear --python 3.9 .venv || die "$NO_PYTHON"
  else
    die "$NO_PYTHON"
  fi
}

install_python_packages() {
  local uv
  is_python39 .venv/bin/python && is_stamped python "${REQUIREMENTS[@]}" && return
  uv=$(find_uv || true)
  make_venv "$uv"
  say "installing the locked Python packages into .venv (3 GB on disk)"
  if [[ -n $uv ]]; then
    # Copies, not links to uv's cache: the yr engine rewrites files of its own package. Compiled, as
    # pip does: where Python may not write bytecode each start would compile MindSpore, for seconds.
    "$uv" pip install -q --link-mode copy --compile-bytecode --python .venv/bin/python \
      "${REQUIREMENTS[@]/#/--requirement=}"
  else
    .venv/bin/python -m pip install -q "${REQUIREMENTS[@]/#/--requirement=}"
  fi
  quiet_engine
  write_stamp python "${REQUIREMENTS[@]}"
}

quiet_engine() { # at INFO the engine writes 29 KB for each window it passes on
  sed -i 's#<log_level>INFO</log_level>#<log_level>WARN</log_level>#' \
    .venv/lib/python3.9/site-packages/mindpandas/dist_executor/modules/config/config.xml
}

# --- Apache Kafka ---

native_is_ready() {
  is_stamped native "${NATIVE_FILES[@]}" && [[ -f $NATIVE_LIBRARY ]]
}

compile_native_code() {
  native_is_ready && return
  say "compiling ${NATIVE_SOURCES[*]}"
  mkdir -p "${NATIVE_LIBRARY%/*}"
  g++ -O3 -fno-math-errno -pthread -shared -fPIC -o "$NATIVE_LIBRARY.new" "${NATIVE_SOURCES[@]}"
  mv "$NATIVE_LIBRARY.new" "$NATIVE_LIBRARY" # a trainer may have the old one loaded
  write_stamp native "${NATIVE_FILES[@]}"
}

install_kafka_jars() {
  kafka_is_ready && return
  say "fetching the Kafka jars with Maven"
  rm -rf build/kafka
  # Colours are taken out of what it says, which is nothing unless it fails.
  mvn -q -B -ntp dependency:copy-dependencies 2>&1 | sed -e $'s/\e\\[[0-9;]*m//g' -e '/^$/d' >&2
  write_stamp kafka pom.xml
}

main() {
  mkdir -p build
  exec 9>build/setup.lock
  flock 9 # two terminals may start `make` at once
  install_system_packages
  install_python_packages
  install_kafka_jars
  compile_native_code
}

main
