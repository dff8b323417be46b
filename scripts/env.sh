# shellcheck shell=bash
# Sourced by the launchers and by tests/run.sh: puts a `python` that satisfies pyproject.toml on PATH
# and asarm on PYTHONPATH. That python is the active virtual or conda environment's where it satisfies
# the ranges, else that of .venv, which is made once from requirements.txt.
# `source env.sh test` asks for the extra `test` too, and adds tests/requirements.txt to .venv. By
# itself (`bash scripts/env.sh`, say where the compute nodes have no network) it prepares the
# environment and names it.
: "${root:=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"

asarm_fail() {
    echo "asarm: $*" >&2
    exit 2
}

# asarm_check PYTHON [EXTRA]: fails at the first requirement that PYTHON does not meet and names it
# in its last line.
asarm_check() {
    PYTHONSAFEPATH=1 "$1" - "$root/pyproject.toml" "${@:2}" <<'PY'
import sys

try:
    import tomllib
    from importlib import metadata

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet
except ImportError as error:
    sys.exit("its Python %d.%d cannot check itself: %s" % (sys.version_info[:2] + (error,)))

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
version = "%d.%d.%d" % sys.version_info[:3]
if version not in SpecifierSet(project["requires-python"]):
    sys.exit("Python %s wanted, it is %s" % (project["requires-python"], version))
wanted = [(text, "") for text in project["dependencies"]]
for extra in sys.argv[2:]:
    wanted += [(text, "") for text in project["optional-dependencies"][extra]]
for text, extra in wanted:  # grows while it is walked: package[extra] wants that extra's packages too
    need = Requirement(text)
    if need.marker and not need.marker.evaluate({"extra": extra}):
        continue
    try:
        found = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        found = None
    if not found:
        sys.exit("%s wanted, it has none" % text)
    if not need.specifier.contains(found, prereleases=True):
        sys.exit("%s wanted, it has %s" % (text, found))
    for extra in need.extras:
        wanted += [(t, extra) for t in metadata.requires(need.name) or [] if "extra" in t]
PY
}

# Prints a python that can make .venv.
asarm_base_python() {
    local low high minor python names=(python3)
    read -r low high < <(
        sed -n 's/^requires-python = ">=3\.\([0-9]*\),<3\.\([0-9]*\)"$/\1 \2/p' "$root/pyproject.toml"
    )
    for ((minor = high - 1; minor >= low; minor--)); do names+=("python3.$minor"); done
    for python in "${names[@]}"; do
        if "$python" -c "import ensurepip, sys, venv
sys.exit(not (3, $low) <= sys.version_info < (3, $high))" 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    asarm_fail "no Python 3.$low to 3.$((high - 1)) with venv and pip on PATH" \
        "(tried ${names[*]}): install one"
}

# asarm_venv_is_ready FILE...: .venv was made from these files of requirements, as they are now.
asarm_venv_is_ready() {
    local file
    for file; do cmp -s "$root/$file" "$root/.venv/$file" || return; done
    "$root/.venv/bin/python" -c "" 2>/dev/null
}

# asarm_add FILE: installs what .venv lacks of a file of requirements. The copy of the file is written
# last: without that of requirements.txt an install was interrupted, and starts anew.
asarm_add() {
    local copy=$root/.venv/$1
    rm -f "$copy"
    PIP_USER=0 "$root/.venv/bin/python" -m pip install --disable-pip-version-check \
        -r "$root/$1" >&2 || asarm_fail "pip could not install $1 into $root/.venv: see above"
    mkdir -p "$(dirname "$copy")" && cp "$root/$1" "$copy" ||
        asarm_fail "cannot write into $root/.venv"
}

# asarm_make_venv FILE...: the first is requirements.txt, those that follow are added to it.
asarm_make_venv() {
    local venv=$root/.venv python file
    if asarm_venv_is_ready "$@"; then return; fi  # made by the job that this one waited for
    if [[ -e $venv/requirements.txt ]] && "$venv/bin/python" -c "" 2>/dev/null; then
        if ! asarm_venv_is_ready requirements.txt; then
            echo "asarm: requirements.txt has changed: updating $venv" >&2
            rm -rf "$venv/tests"  # what was added may not suit the new versions
        fi
    else
        python=$(asarm_base_python) || exit
        echo "asarm: making $venv from requirements.txt, once; this takes some minutes" >&2
        "$python" -m venv --clear "$venv" >&2 || asarm_fail "$python could not make $venv: see above"
    fi
    for file; do
        if asarm_venv_is_ready "$file"; then continue; fi
        [[ $file == requirements.txt ]] || echo "asarm: adding $file to $venv, once" >&2
        asarm_add "$file"
    done
}

# Of two jobs that start together one makes .venv and the other waits for it.
asarm_make_venv_alone() {
    [[ -w $root && ( ! -e $root/.venv || -w $root/.venv ) ]] ||
        asarm_fail "cannot make or update $root/.venv: you may not write there, or it is another user's" \
            "whose Python you cannot run; activate an environment of your own"
    (
        if command -v flock >/dev/null && ! flock -n 9; then
            echo "asarm: waiting for another job that makes $root/.venv" >&2
            flock 9
        fi
        asarm_make_venv "$@" 9>&-
    ) 9>"$root/.venv.lock" || exit
}

# asarm_env [EXTRA]
asarm_env() {
    local env=${VIRTUAL_ENV:-${CONDA_PREFIX:-}} problem files=(requirements.txt)
    if [[ ${1:-} == test ]]; then files+=(tests/requirements.txt); fi
    if [[ -n $env && ! $env -ef $root/.venv ]]; then
        problem=$(asarm_check "$env/bin/python" "$@" 2>&1) || {
            echo "asarm: not using the environment $env: ${problem##*$'\n'}" >&2
            env=
        }
    else
        env=
    fi
    if [[ -z $env ]]; then
        asarm_venv_is_ready "${files[@]}" || asarm_make_venv_alone "${files[@]}"
        env=$root/.venv
        export VIRTUAL_ENV=$env
    fi
    export PATH="$env/bin:$PATH"
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
}

# a launcher's own arguments are seen here too, so only the word `test` counts
if [[ ${1:-} == test ]]; then asarm_env test; else asarm_env; fi
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then echo "asarm: using $(command -v python)"; fi
