#!/usr/bin/env bash
# Makes .venv from the pinned file of this machine's kind and installs the project into it, editable.
# Does nothing when exactly that file is installed already. Usage: requirements/install.sh [cpu|gpu]
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
log=$venv/setup.log
pytorch_cpu_index=https://download.pytorch.org/whl/cpu

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

is_python_3_11() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3}; do
        if is_python_3_11 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 is needed, which the pinned files are for. Tried ${PYTHON:-python3.11 and python3}" \
        "($("${PYTHON:-python3}" --version 2>/dev/null || echo none found))." \
        "Install it, or name it: make setup PYTHON=/path/to/python3.11"
}

choose_device() {
    if nvidia-smi -L 2>/dev/null | grep '^GPU' >/dev/null; then echo gpu; else echo cpu; fi
}

# Reads what pip says about $1 packages and prints a line where a person would begin to wonder.
report_progress() {
    local total=$1 count=0 line
    while IFS= read -r line; do
        case $line in
        Collecting* | Processing* | 'Requirement already satisfied'*)
            count=$((count + 1))
            if ((count % 50 == 0)); then say "  $count of $total packages"; fi
            ;;
        *Downloading*'('[0-9][0-9][0-9]*' MB)' | *Downloading*'('[0-9]*' GB)')
            line=${line##*Downloading }
            say "  fetching ${line##*/}"
            ;;
        'Installing collected packages'*)
            if ((total > 1)); then say "  installing them, a minute or two"; fi
            ;;
        esac
    done
}

# Runs pip on $2..., of whose $1 packages it reports the progress; shows the end of the log when it fails.
pip_install() {
    local total=$1
    shift
    PYTHONUNBUFFERED=1 $venv/bin/python -m pip install --no-deps --progress-bar off --disable-pip-version-check "$@" 2>&1 |
        tee -a $log | report_progress "$total" || {
        grep -v '^WARNING: Location .* is ignored' $log | tail -n 20 >&2
        fail "pip could not install what $pins names (above: the end of $log)"
    }
}

[[ $(uname -sm) == 'Linux x86_64' ]] ||
    fail "the pinned files are for Linux on x86-64, and this is $(uname -sm). Resolve your own with requirements/lock.sh"

device=${1:-$(cat $venv/.device 2>/dev/null || choose_device)}
case $device in
cpu | gpu) ;;
*) fail "DEVICE must be cpu or gpu, not '$device'" ;;
esac
pins=requirements/$device.txt
stamp=$venv/.installed-$(sha256sum $pins | cut -c 1-16)

if [[ -e $stamp ]]; then
    say "$venv holds $pins already"
    exit
fi

if [[ -d $venv ]] && [[ $(cat $venv/.device 2>/dev/null || echo "$device") != "$device" ]]; then
    say "$venv was made for another device: making it again for $device"
    rm -rf $venv
fi
if ! is_python_3_11 $venv/bin/python; then
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    "$python" -m venv --clear $venv || fail "$python could not make $venv: does it have the modules venv and ensurepip?"
fi
echo "$device" >$venv/.device
rm -f $venv/.installed-*
: >$log

say "installing $pins (everything pip says goes to $log)"
total=$(grep -c '==' $pins)
if [[ $device == cpu ]]; then
    torch=$(grep '^torch==' $pins)
    if [[ $($venv/bin/python -m pip index versions torch 2>>$log) != *"${torch#torch==}"* ]]; then
        say "  pip is not set up to find $torch: taking it from PyTorch's own CPU index, $pytorch_cpu_index"
        pip_install 1 --index-url $pytorch_cpu_index "$torch"
    fi
fi
pip_install "$total" -r $pins
pip_install 1 --no-build-isolation --editable .
touch "$stamp"
say "done: $venv holds $pins"
