#!/bin/sh
# Installs LEADER into a virtual environment, which is made where it is not there; repeated runs change nothing.
#
#   install.sh ENVIRONMENT EXTRAS SOURCE [OPTION ...]
#
# EXTRAS: cpu or gpu, with others behind a comma; auto is gpu where nvidia-smi finds a GPU, else cpu. SOURCE: a checkout
# or a wheel. OPTION: what both uv and pip take; the last one may be --editable. PYTHON names the interpreter of a new
# environment. This script finds one that fits, and install.py beside it does the rest.
set -eu
environment=$1

# Prints the version of an interpreter, or nothing where it does not run.
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || :; }
# Ray 2.60, vLLM 0.32 and torch 2.13 have wheels for these versions.
fits() { case $(version "$1") in 3.1[1-4]) ;; *) return 1 ;; esac; }
refuse() {
    echo "LEADER needs Python 3.11 to 3.14, for which Ray, vLLM and torch have wheels; $1" >&2
    exit 2
}
install_one='Install one (Debian, Ubuntu: sudo apt-get install python3.11 python3.11-venv) and name it: PYTHON=python3.11'

own=$environment/bin/python
if grep -qs '^unfinished' "$environment/.leader-install" || [ -z "$(version "$own")" ]; then
    own=  # install.py makes the environment (again)
elif ! fits "$own"; then
    refuse "$environment has $(version "$own"). Remove it (in a checkout: make clean), then run this again."
fi
if [ -z "${PYTHON:-}" ]; then
    for each in ${own:+"$own"} python3 python3.11 python3.12 python3.13 python3.14; do
        if fits "$each"; then PYTHON=$each; break; fi
    done
    test -n "${PYTHON:-}" || refuse "python3 is $(version python3 | grep . || echo missing), and PATH has no other. $install_one"
elif ! fits "$PYTHON"; then
    refuse "PYTHON=$PYTHON $(version "$PYTHON" | sed 's/^/is /' | grep . || echo 'does not run'). $install_one"
fi
export PYTHON
exec "$PYTHON" "$(dirname "$0")/install.py" "$@"
