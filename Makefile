# make demo | make test: both set up everything they need in .venv
PYTHON ?= python3
# plain `torch` may pull gigabytes of CUDA packages; the native library serves every torch from 2.11 on
TORCH ?= torch==2.13.0
PY := .venv/bin/python
OLDEST_TRITON := .venv/triton-3.6
PEERS := .venv/peers
RUN ?= runs/demo

.PHONY: demo test test-slow test-sanitize test-big perf build lint format clean

demo: build
	$(PY) -m dgmkern train ddpm --data digits --out $(RUN) --overwrite
	$(PY) -m perf --demo
	@echo "samples: $(RUN)/samples.png  loss: $(RUN)/loss.png"

# the contract of the ops holds for the plain torch reference too; kernels of a GPU run without one
test: export DGMKERN_CMAKE_ARGS := $(DGMKERN_CMAKE_ARGS) -DDGM_EMULATE=ON
test: build $(OLDEST_TRITON) $(PEERS)
	DGMKERN_BACKEND=reference $(PY) -m pytest -q python_tests/ops/test_contract.py
	$(PY) -m pytest -q

test-slow: build
	$(PY) -m pytest -q -m slow

# kernels under AddressSanitizer and UndefinedBehaviorSanitizer
test-sanitize: .venv/ready
	.ci/sanitize

# tensors of over 2^31 elements: 20 GB of memory
test-big: build
	$(PY) -m pytest -v -m big

perf: build
	$(PY) -m perf

# seconds after an edit: the build folder stays
build: .venv/ready
	@$(PY) setup.py -q build_ext --inplace

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv || { $(PYTHON) -m pip install --user virtualenv && $(PYTHON) -m virtualenv .venv; }
	$(PY) -m pip install -q --upgrade pip
	$(PY) -m pip install -q '$(TORCH)' 'setuptools>=77' wheel 'pybind11>=2.13' 'cmake>=3.24' ninja numpy
	$(PY) -m pip install -q --no-build-isolation -e '.[dev,train]'
	touch $@

# in a folder of its own: its interpreter is tested beside the newest one's
$(OLDEST_TRITON): .venv/ready
	$(PY) -m pip install -q --no-deps --target $@ 'triton==3.6.0'

# without what they depend on: torchvision would bring a torch of its own
$(PEERS): .venv/ready
	$(PY) -m pip install -q --no-deps --upgrade --target $@ 'pytorch-fid==0.3.0' 'clean-fid==0.1.35' 'torch-fidelity==0.4.0' \
	  'torchmetrics==1.9.0' 'lightning-utilities==0.15.3' 'piq==0.8.0' 'prdc==0.2'
	touch $@

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' | xargs .venv/bin/clang-format --dry-run -Werror

format: .venv/ready
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' | xargs .venv/bin/clang-format -i

clean:
	rm -rf build dist *.egg-info dgmkern/*.so
