#!/usr/bin/env bash
# Makes .venv at the root of the repository and installs the pinned packages into it; does nothing when all is there.
#
#   bash launch/environment.sh run     what training and export need
#   bash launch/environment.sh dev     and the tools of the tests
#
#   PYTHON=/path/to/python3    the interpreter to build on (default: the first python3 that is new enough)
#   MEGATRAIN_TORCH=cpu|cuda   which build of torch (default: cuda where nvidia-smi finds a GPU); for a login node
#                              without GPUs that shares its files with nodes that have them: cuda
set -euo pipefail

needs="${1:-run}"
case "$needs" in
    run) extras="export" ;;
    dev) extras="export,dev" ;;
    *) echo "environment: unknown argument '$needs'; say run or dev" >&2; exit 2 ;;
esac

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root="$(pwd -P)"
venv=".venv"
python="$venv/bin/python"
log="$venv/install.log"
# pip reads these: a wish for --user breaks a venv, and packages that are built from source build with pinned tools.
export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
unset PYTHONHOME

say() { printf 'environment: %s\n' "$*"; }
fail() { printf 'environment: %s\n' "$*" >&2; exit 1; }

wanted_torch() {
    if [ -n "${MEGATRAIN_TORCH:-}" ]; then
        case "$MEGATRAIN_TORCH" in
            cpu | cuda) echo "$MEGATRAIN_TORCH" ;;
            *) fail "MEGATRAIN_TORCH is '$MEGATRAIN_TORCH'; say cpu or cuda" ;;
        esac
    elif command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then
        echo cuda
    else
        echo cpu
    fi
}

# What a finished installation depends on, as one hash.
key() {
    "$python" - "$root" setup.py constraints.txt pyproject.toml launch/environment.sh <<'PYTHON'
import hashlib, sys
from pathlib import Path

digest = hashlib.sha256(repr((sys.version, sys.argv[1])).encode())
for name in sys.argv[2:]:
    digest.update(Path(name).read_bytes())
print(digest.hexdigest())
PYTHON
}

# The stamp is written last: "key needs torch".
finished() {
    local stamp_key stamp_needs stamp_torch
    [ -f "$venv/stamp" ] && [ -x "$python" ] || return 1
    read -r stamp_key stamp_needs stamp_torch <"$venv/stamp" || return 1
    [ "$stamp_needs" = "$needs" ] || [ "$stamp_needs" = dev ] || return 1
    # A CUDA build serves a machine without a GPU, not the other way round.
    [ "$stamp_torch" = "$torch" ] || [ "$torch" = cpu ] || return 1
    [ "$stamp_key" = "$(key 2>/dev/null)" ]
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

base_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
        if command -v "$candidate" >/dev/null 2>&1 && new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "megatrain needs Python 3.11 or newer; python3 here is $(python3 --version 2>&1 || true)." \
        "Install one, or name it: PYTHON=/path/to/python3.11"
}

# A venv of an older Python, one cut short, or one whose folder was moved (its scripts name the old place).
usable() {
    [ -x "$python" ] && new_enough "$python" && "$python" -m pip --version >/dev/null 2>&1 &&
        grep -qF -- "$root/$venv" "$venv/bin/activate" 2>/dev/null
}

make_venv() {
    local base
    base="$(base_python)"
    say "making $root/$venv with $("$base" --version)"
    if "$base" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        "$base" -m venv --clear "$venv" || fail "$base -m venv failed (above)"
    elif "$base" -c 'import venv, pip' >/dev/null 2>&1; then
        # Debian's python3 without python3-venv has no ensurepip, but its pip can install itself.
        "$base" -m venv --clear --without-pip "$venv" || fail "$base -m venv failed (above)"
        PIP_CONSTRAINT='' "$base" -m pip --python "$python" install --quiet pip || fail "pip could not be put into $venv"
    else
        fail "$base has neither ensurepip nor pip. On Debian and Ubuntu: apt install python3-venv; elsewhere install pip"
    fi
}

# After an interruption a package can be half there while pip takes it for installed: let pip forget those.
forget_damaged() {
    "$python" - <<'PYTHON'
import shutil, sysconfig
from importlib.metadata import PathDistribution
from pathlib import Path

for info in Path(sysconfig.get_path("purelib")).glob("*.dist-info"):
    files = PathDistribution(info).files if (info / "METADATA").exists() else None
    if files is None or not all(file.suffix == ".pyc" or file.locate().exists() for file in files):
        print(f"environment: {info.name.removesuffix('.dist-info')} is not whole, it is installed again")
        shutil.rmtree(info)
PYTHON
}

pip() { "$python" -m pip --no-input "$@" >>"$log" 2>&1; }

# Prints cpu, cuda or none: which build of the pinned torch is installed.
torch_build() {
    "$python" - "$pin" <<'PYTHON'
import sys
from importlib import metadata

try:
    distribution = metadata.distribution("torch")
except metadata.PackageNotFoundError:
    sys.exit(print("none"))
needs = " ".join(distribution.requires or [])
if distribution.version.split("+")[0] != sys.argv[1]:
    print("none")
else:
    print("cuda" if "+cu" in distribution.version or "nvidia" in needs or "cuda" in needs else "cpu")
PYTHON
}

install_torch() {
    local have
    have="$(torch_build)"
    if [ "$have" = "$torch" ] || { [ "$have" = cuda ] && [ "$torch" = cpu ]; }; then
        return
    elif [ "$torch" = cuda ]; then
        say "installing torch $pin for CUDA (2 to 4 GB)"
        pip install --force-reinstall --no-deps "torch==$pin" || show_log
        [ "$(torch_build)" = cuda ] || say "WARNING: pip found only a CPU build of torch $pin; the GPU will not be used"
    elif [ "$(uname -s)" != Linux ]; then
        say "installing torch $pin"
        pip install --no-deps "torch==$pin" || show_log
    else
        # A local version matches nothing on PyPI, whose builds for Linux are CUDA ones: this asks pip's own settings
        # (a mirror, a folder of wheels) for a CPU build and downloads nothing else.
        say "installing torch $pin, the CPU build (no GPU found here)"
        pip install --no-deps "torch==$pin+cpu" ||
            pip install --no-deps --retries 0 --timeout 15 \
                --index-url https://download.pytorch.org/whl/cpu "torch==$pin+cpu" ||
            {
                say "no CPU build of torch $pin in reach: taking the one pip finds (on Linux a CUDA build, 2 to 4 GB)"
                pip install --no-deps "torch==$pin" || show_log
            }
    fi
}

show_log() {
    tail -n 30 "$log" >&2
    fail "pip failed (above, and in $root/$log). Mend the cause and run the same command again: it goes on from here"
}

torch="$(wanted_torch)"
if finished; then
    exit 0
fi
[ -w . ] || fail "cannot write in $root"
exec 9>>.venv.lock
if command -v flock >/dev/null 2>&1 && ! flock -n 9; then
    say "another installation is at work in $root, waiting for it"
    flock 9
    if finished; then
        exit 0
    fi
fi

SECONDS=0
pin="$(sed -n 's/^torch==//p' constraints.txt)"
rm -f "$venv/stamp"
usable || make_venv
if [ -f "$venv/unfinished" ]; then
    forget_damaged
fi
: >"$venv/unfinished"
: >"$log"
install_torch
say "installing the other packages (some minutes the first time; details in $venv/install.log)"
pip install -c constraints.txt -e ".[$extras]" || show_log
"$python" -c 'import torch, deepspeed' >>"$log" 2>&1 || show_log
printf '%s %s %s\n' "$(key)" "$needs" "$(torch_build)" >"$venv/stamp.new"
mv "$venv/stamp.new" "$venv/stamp"
rm -f "$venv/unfinished"
say "ready after ${SECONDS} s: $("$python" --version), torch $("$python" -c 'from importlib.metadata import version; print(version("torch"))')"
