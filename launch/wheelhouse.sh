#!/usr/bin/env bash
# For a cluster without internet: all pinned packages as files, and an installation from them alone.
#
#   bash launch/wheelhouse.sh download FOLDER    where there is internet, with the cluster's Python version and processor
#   bash launch/wheelhouse.sh install  FOLDER    on the cluster, from this repository: makes .venv
#
#   PYTHON=/path/to/python3    the interpreter that downloads (default: python3)
#   MEGATRAIN_TORCH=cpu|cuda   as for launch/environment.sh
#   EXTRAS=export              the extras of setup.py that are downloaded (dev: the tools of the tests)
set -euo pipefail

fail() { printf 'wheelhouse: %s\n' "$*" >&2; exit 2; }
[ "$#" -eq 2 ] || fail "say: bash launch/wheelhouse.sh download|install FOLDER"
what="$1"
mkdir -p -- "$2"
folder="$(cd -- "$2" && pwd -P)"
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

case "$what" in
    download)
        pip=("${PYTHON:-python3}" -m pip --disable-pip-version-check)
        pin="$(sed -n 's/^torch==//p' constraints.txt)"
        torch="torch==$pin"
        if [ "${MEGATRAIN_TORCH:-cuda}" = cpu ]; then
            # PyPI has only CUDA builds for Linux: this one comes from a mirror or folder that pip knows, or from PyTorch's.
            torch="torch==$pin+cpu"
            "${pip[@]}" download --quiet --no-deps --dest "$folder" "$torch" ||
                "${pip[@]}" download --no-deps --dest "$folder" --index-url https://download.pytorch.org/whl/cpu "$torch"
        fi
        # `wheel` and not `download`: what exists only as source is built here, with internet and a compiler.
        "${pip[@]}" wheel --wheel-dir "$folder" --find-links "$folder" --constraint constraints.txt \
            "$torch" ".[${EXTRAS:-export}]" setuptools wheel
        # The package itself is installed from the repository.
        rm -f -- "$folder"/megatrain-*.whl
        (cd -- "$folder" && sha256sum -- *.whl >SHA256SUMS)
        echo "wheelhouse: $(find "$folder" -name '*.whl' | wc -l) wheels in $folder ($(du -sh "$folder" | cut -f1))"
        ;;
    install)
        [ -f "$folder/SHA256SUMS" ] || fail "no SHA256SUMS in $folder; make it with: bash launch/wheelhouse.sh download"
        (cd -- "$folder" && sha256sum --check --quiet SHA256SUMS) || fail "files in $folder are damaged; copy them again"
        export PIP_NO_INDEX=1 PIP_FIND_LINKS="$folder" PIP_CONFIG_FILE=/dev/null
        exec bash launch/environment.sh run
        ;;
    *) fail "unknown argument '$what'; say download or install" ;;
esac
