#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command of at most nine minutes: builds the CUDA kernels, runs every op on
# CUDA with both backends, compares the noise of CPU and CUDA bit for bit, looks for bad memory accesses, times the ops
# beside eager torch and torch.compile, and profiles. Needs an NVIDIA GPU, nvcc, a Python with torch and triton, and
# nothing from a network. A part that fails is reported, and the rest still runs.
#
#   perf/gpu_check.sh [FOLDER]        results go to FOLDER, by default perf/results/gpu
#   PYTHON=... the Python that has torch; DEVICE=cpu rehearses without a GPU what can be rehearsed
set -u
cd "$(dirname "$0")/.."
OUT=${1:-perf/results/gpu}
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-530}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1
: > "$OUT/summary.txt"
failed=0

left() { echo $((SECONDS_IN_ALL - SECONDS)); }

# part NAME LIMIT COMMAND...: at most LIMIT seconds, and what is left of all
part() {
  local name=$1 limit=$2 began=$SECONDS status
  shift 2
  [ "$limit" -gt "$(left)" ] && limit=$(left)
  if [ "$limit" -lt 5 ]; then
    echo "$name: no time left" | tee -a "$OUT/summary.txt"
    failed=1
    return
  fi
  timeout -k 5 "$limit" "$@" > "$OUT/$name.txt" 2>&1
  status=$?
  case $status in
    0) status=ok ;;
    124 | 137) status="stopped after $limit s" failed=1 ;;
    *) status="FAILED ($status)" failed=1 ;;
  esac
  echo "$name: $status, $((SECONDS - began)) s" | tee -a "$OUT/summary.txt"
  [ "$status" = ok ] || tail -n 15 "$OUT/$name.txt" | sed 's/^/    /'
}

# missing NAME PROGRAM: says that a part is left out, and why
missing() { echo "$1: LEFT OUT, there is no $2" | tee -a "$OUT/summary.txt"; }

about() {
  nvidia-smi || true
  nvcc --version || true
  "$PYTHON" -c "import sys, torch, triton; print(sys.version, torch.__version__, torch.version.cuda, triton.__version__)
if torch.cuda.is_available(): print(torch.cuda.get_device_properties(0))"
}

build() { # for this GPU alone, if there is one: a quarter of the time
  local architecture
  architecture=$("$PYTHON" -c "import torch
c = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
print(f'{c[0]}{c[1]}-real')")
  DGMKERN_BUILD_FOLDER=build/gpu-check DGMKERN_REQUIRE_NATIVE=1 DGMKERN_CMAKE_ARGS="-DDGM_WERROR=ON -DDGM_EMULATE=ON \
    -DDGM_CUDA_ARCHITECTURES=$architecture" "$PYTHON" setup.py -q build_ext --inplace
}

rehearsing() { [ "$DEVICE" = cpu ]; }
rehearsing && export DGMKERN_EMULATE=1
run() { # run BACKEND MODULE ...: in the interpreter where there is no GPU
  local backend=$1
  shift
  if rehearsing && [ "$backend" = triton ]; then
    TRITON_INTERPRET=1 DGMKERN_BACKEND=triton "$PYTHON" -m "$@"
  else
    DGMKERN_BACKEND=$backend "$PYTHON" -m "$@"
  fi
}
export -f about build run rehearsing
export PYTHON DEVICE

part about 30 bash -c about
part build 240 bash -c build
part ops-cuda 70 bash -c "run cuda perf.gpu_ops $DEVICE"
part noise 60 bash -c "run cuda perf.gpu_noise $DEVICE"
part ops-triton 110 bash -c "run triton perf.gpu_ops $DEVICE --fewer"
if rehearsing; then
  :
elif ! command -v compute-sanitizer > /dev/null; then
  missing sanitizer compute-sanitizer
else
  part sanitizer 60 bash -c "DGMKERN_BACKEND=cuda compute-sanitizer --error-exitcode 9 --launch-timeout 0 \
    $PYTHON -m perf.gpu_ops $DEVICE --fewer --only float32"
fi
part bench-cuda 110 bash -c "run cuda perf.gpu_bench $DEVICE --seconds 100 --out $OUT/cuda.json"
part bench-triton 70 bash -c "run triton perf.gpu_bench $DEVICE --seconds 60 --without-peers --out $OUT/triton.json"
part steps 60 bash -c "run cuda perf.gpu_steps $DEVICE --out $OUT/steps.json"
if rehearsing; then
  :
elif ! command -v ncu > /dev/null; then
  missing profile ncu
else
  part profile 50 bash -c "DGMKERN_BACKEND=cuda ncu --set basic -k regex:job_kernel -c 12 \
    $PYTHON -m perf.gpu_bench $DEVICE --once"
fi
cat "$OUT/summary.txt"
exit $failed
