# Sourced by tools/demo and tools/test, from the root of the repository: what the machine must have, and .venv.

missing=()

# need PROGRAM PACKAGE: a native program and the Debian package that has it.
need() {
    command -v "$1" >/dev/null || missing+=("$2")
}

# need_file PATH PACKAGE: the same for a file.
need_file() {
    [ -e "$1" ] || missing+=("$2")
}

# Stop and name the command that installs what is missing; in CI, as root, run it instead.
need_done() {
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
        return 0
    fi
    echo "missing on this machine; install with: sudo apt-get install ${missing[*]}" >&2
    exit 1
}

# The first Python of at least 3.11.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

# Make .venv with emu and its test tools in it; again only when pyproject.toml or the Python changed.
setup_venv() {
    local python stamp=.venv/.stamp wanted
    if ! python=$(find_python); then
        echo "Python 3.11 or later is missing; install with: sudo apt-get install python3 python3-venv" >&2
        exit 1
    fi
    wanted="$("$python" --version) $(pwd) $(cksum <pyproject.toml)"
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        .venv/bin/python -m compileall -q emu
        return 0
    fi
    echo "setting up .venv" >&2
    if ! "$python" -m venv .venv; then
        echo "venv is missing; install with: sudo apt-get install python3-venv" >&2
        exit 1
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[test]'
    .venv/bin/python -m compileall -q emu # half of a cold start is compiling, where Python may not write .pyc files itself
    echo "$wanted" >"$stamp"
}

need gcc gcc
need g++ g++
