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

# The system's package manager; empty if it is none of those known here.
package_manager() {
    local name
    for name in apt-get dnf pacman zypper apk; do
        if command -v "$name" >/dev/null; then
            echo "$name"
            return 0
        fi
    done
}

# package_of MANAGER PACKAGE: what another distribution calls a Debian package.
package_of() {
    case $1:$2 in
        dnf:g++ | zypper:g++) echo gcc-c++ ;;
        pacman:g++) echo gcc ;;
        dnf:binutils-gold) echo binutils-gold ;;
        *:binutils-gold) echo binutils ;;
        dnf:libc6-dbg | zypper:libc6-dbg) echo glibc-debuginfo ;;
        pacman:libc6-dbg) echo debuginfod ;;
        apk:libc6-dbg) echo musl-dbg ;;
        zypper:lld) echo lld ;;
        pacman:python3) echo python ;;
        dnf:python3-venv | pacman:python3-venv | zypper:python3-venv | apk:python3-venv) ;;
        *) echo "$2" ;;
    esac
}

# install_command MANAGER PACKAGE...: the command that a person types for what is missing, given by its Debian names.
install_command() {
    local manager=$1 name names=()
    shift
    for name; do
        mapfile -t -O "${#names[@]}" names < <(package_of "$manager" "$name")
    done
    case $manager in
        apt-get | dnf) echo "$manager install ${names[*]}" ;;
        pacman) echo "pacman -S --needed ${names[*]}" ;;
        zypper) echo "zypper install ${names[*]}" ;;
        apk) echo "apk add ${names[*]}" ;;
    esac
}

# As root, or by sudo where that may ask a person or needs no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Whether packages may be installed: a person is asked; root or CI without a terminal just does it.
may_install() {
    local answer
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || return 1
    if [ -t 0 ] && [ -t 2 ]; then
        read -r -p "Install them now? [Y/n] " answer
        case $answer in '' | [Yy]*) return 0 ;; *) return 1 ;; esac
    fi
    [ "$(id -u)" = 0 ] || { [ "${CI:-}" = true ] && sudo -n true 2>/dev/null; }
}

# Say what is missing and install it with apt where that may be; elsewhere name the command and stop.
need_done() {
    local manager
    [ ${#missing[@]} -gt 0 ] || return 0
    manager=$(package_manager)
    if [ -z "$manager" ]; then
        echo "missing on this machine, by the names of Debian's packages: ${missing[*]}" >&2
        exit 1
    fi
    if [ "$manager" != apt-get ]; then
        echo "missing on this machine; install with: sudo $(install_command "$manager" "${missing[@]}")" >&2
        exit 1
    fi
    echo "missing on this machine: ${missing[*]}" >&2
    if ! may_install; then
        echo "install with: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
    echo "installing: apt-get install --no-install-recommends ${missing[*]}" >&2
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
    missing=()
}

# The first Python of at least 3.11; PYTHON, where that is set, is the only one asked.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

# Which of pyproject.toml's extras .venv is to have: `sample` is a part of `test`.
: "${extra:=test}"

# What .venv was made of, for a Python and an extra; it is kept in .venv/.stamp.
made_of() {
    echo "$("$1" --version) $(pwd) $(cksum <pyproject.toml) $2"
}

# stamped PYTHON: whether .venv was made for a Python, with what is wanted or more.
stamped() {
    local stamp
    [ -x .venv/bin/python ] && stamp=$(cat .venv/.stamp 2>/dev/null) &&
        { [ "$stamp" = "$(made_of "$1" "$extra")" ] || [ "$stamp" = "$(made_of "$1" test)" ]; }
}

# Whether .venv is there and still right: then no other Python is asked, which may take longer than a test does.
venv_is_right() {
    [ -z "${PYTHON:-}" ] && command -v cksum >/dev/null && stamped .venv/bin/python
}

# Have a Python that can make environments, or name what is missing; a system whose own Python is too old is told so.
need_python() {
    local python own
    ! venv_is_right || return 0
    if python=$(find_python); then
        if ! "$python" -c 'import ensurepip' 2>/dev/null; then
            # Debian's Pythons have their ensurepip in a package of their own.
            missing+=("$("$python" -c 'import sys; print(f"python3.{sys.version_info[1]}-venv")')")
        fi
        return 0
    fi
    if [ -n "${PYTHON:-}" ]; then
        echo "PYTHON=$PYTHON is no Python of at least 3.11" >&2
        exit 1
    fi
    if own=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        # Some releases have later ones beside their python3.
        for python in python3.14 python3.13 python3.12 python3.11; do
            if apt-cache show "$python-venv" >/dev/null 2>&1; then
                missing+=("$python" "$python-venv")
                return 0
            fi
        done
        echo "emu needs Python 3.11 or later, and python3 here is $own. Get a later one from elsewhere (an installer of python.org, pyenv," \
            "uv, conda), and say PYTHON=/its/bin/python $0" >&2
        exit 1
    fi
    missing+=(python3 python3-venv)
}

# Make .venv with emu and its test tools in it; again only when pyproject.toml or the Python changed.
setup_venv() {
    local python
    if venv_is_right; then
        .venv/bin/python -m compileall -q emu
        return 0
    fi
    if ! python=$(find_python); then
        echo "emu needs Python 3.11 or later; what this system installs is older, so get one from elsewhere and say PYTHON=/its/bin/python $0" >&2
        exit 1
    fi
    if stamped "$python"; then
        .venv/bin/python -m compileall -q emu
        return 0
    fi
    echo "setting up .venv with $("$python" --version)" >&2
    # Another Python's environment is of no use to this one.
    if [ "$(.venv/bin/python --version 2>/dev/null)" = "$("$python" --version)" ]; then
        "$python" -m venv .venv
    else
        "$python" -m venv --clear .venv
    fi
    # What is imported is compiled then: most of what is installed never is.
    .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --config-settings editable_mode=compat --editable ".[$extra]"
    .venv/bin/python -m compileall -q emu # half of a cold start is compiling, where Python may not write .pyc files itself
    made_of "$python" "$extra" >.venv/.stamp
}

need gcc gcc
need g++ g++
need_python
