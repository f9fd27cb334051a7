#!/bin/sh
# One round on a machine with a GPU, PyTorch and transformers, without network or Rust: correctness, then speed.
#
#   benches/gpu.sh sims-model.xz [results.json]
#
# The binary is a `sims-model` built with `--features sims-model/cuda`, plain or .xz. The round makes its own models
# with random weights, checks small ones against transformers, and times an 8 B model in bf16 on both sides; it takes
# under eight minutes, and what is done when time runs out is in the results. `benches/gpu.py` says what is measured.
#
# Settings: SIZE=full|tiny (tiny runs through everything in two minutes), DEVICE=cuda|cpu, DEADLINE (seconds, 460),
# PYTHON, WORK (a folder for models; /dev/shm where that has room).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
binary=${1:?usage: benches/gpu.sh BINARY [RESULTS]}
results=${2:-gpu-round.json}
python=${PYTHON:-python3}
work=${WORK:-}
if [ -z "$work" ]; then
    free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }')
    if [ "${free:-0}" -ge 24 ]; then work=$(mktemp -d /dev/shm/sims-gpu.XXXXXX); else work=$(mktemp -d); fi
    trap 'rm -rf "$work"' EXIT
fi

case $binary in
    *.xz) "$python" -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' \
        "$binary" "$work/sims-model" ;;
    *) cp "$binary" "$work/sims-model" ;;
esac
chmod +x "$work/sims-model"

# The binary needs libcublas.so.13, libcurand.so.10, libcudart.so.13, libnvrtc.so.13 and NVRTC's own second library:
# a toolkit has them, and so have the wheels that PyTorch depends on.
if [ "${DEVICE:-cuda}" != cpu ]; then
    libraries=$("$python" - <<'PYTHON'
import glob
import os
import sys

folders = []
for root in sys.path:
    folders += glob.glob(os.path.join(root, "nvidia", "cu13", "lib")) + glob.glob(os.path.join(root, "nvidia", "*", "lib"))
for root in ("/usr/local/cuda", *sorted(glob.glob("/usr/local/cuda-13*"), reverse=True)):
    folders += glob.glob(os.path.join(root, "lib64"))
wanted = ["libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcudart.so.13", "libnvrtc.so.13"]
found = []
for name in wanted:
    for folder in folders:
        if os.path.exists(os.path.join(folder, name)):
            if folder not in found:
                found.append(folder)
            break
    else:
        print(f"not found: {name}", file=sys.stderr)
print(":".join(found))
PYTHON
    )
    SIMS_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export SIMS_LIBRARY_PATH
fi

"$python" "$here/gpu.py" "$work" "$results"
