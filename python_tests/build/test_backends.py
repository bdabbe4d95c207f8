"""Which kernels run: the native library absent, forced, or asked for in vain."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch

import dgmkern

PACKAGE = pathlib.Path(dgmkern.__file__).parent
ROOT = pathlib.Path(__file__).parents[2]
USE = """
import torch, dgmkern
s = dgmkern.DiffusionSchedule.linear(100)
x = dgmkern.q_sample(torch.ones(4, 8), torch.arange(4), s, seed=1)
m = torch.zeros(4, 8, requires_grad=True)
z, kl = dgmkern.gaussian_rsample_kl(m, m, seed=1)
(z.sum() + kl.sum()).backward()
print(dgmkern.cpu_capability(), x.double().sum().item(), m.grad.double().sum().item())
"""


def run(code: str, folder: pathlib.Path, **env: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder), **env}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=folder)


@pytest.fixture
def without_native(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "dgmkern", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def test_without_the_native_library_the_reference_runs_and_says_so_once(without_native):
    plain = run(USE, without_native)
    assert plain.returncode == 0, plain.stderr
    assert plain.stderr.count("dgmkern runs on its slow reference") == 1
    native = run(USE, PACKAGE.parent)
    assert plain.stdout.split()[0] == "None"
    for a, b in zip(plain.stdout.split()[1:], native.stdout.split()[1:], strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5)


def test_forcing_a_backend_that_is_missing_is_an_error_that_says_why(without_native):
    forced = run("import dgmkern", without_native, DGMKERN_BACKEND="cpp")
    assert forced.returncode != 0
    assert "DGMKERN_BACKEND=cpp: the native library was not built" in forced.stderr
    (without_native / "triton.py").write_text("raise ImportError")  # found, but not looked into before a kernel runs
    forced = run("import dgmkern", without_native, DGMKERN_BACKEND="triton")
    assert forced.returncode == 0, forced.stderr
    blocked = "import sys; sys.modules['triton'] = None; import dgmkern"
    assert "DGMKERN_BACKEND=triton: triton is not" in run(blocked, PACKAGE.parent, DGMKERN_BACKEND="triton").stderr
    if torch.version.cuda is None:
        assert "DGMKERN_BACKEND=cuda: " in run("import dgmkern", PACKAGE.parent, DGMKERN_BACKEND="cuda").stderr
    wrong = run("import dgmkern", PACKAGE.parent, DGMKERN_BACKEND="gpu")
    assert "expected one of reference, cpp, cuda, triton, got 'gpu'" in wrong.stderr


def test_forcing_the_reference_is_silent_and_shows_in_the_grid():
    code = "import dgmkern; print(dgmkern.cpu_capability(), dgmkern.ops.backends()['q_sample']['cpp'])"
    forced = run(code, PACKAGE.parent, DGMKERN_BACKEND="reference")
    assert forced.stdout.split(maxsplit=1) == ["None", "DGMKERN_BACKEND=reference\n"]
    assert "RuntimeWarning" not in forced.stderr


def test_a_library_that_does_not_load_is_named(without_native):
    (without_native / "dgmkern" / "libdgmkern.so").write_bytes(b"not a library")
    broken = run("import dgmkern", without_native)
    assert broken.returncode == 0
    assert "the native library does not load" in broken.stderr


# matrix decompositions that torch's LAPACK does
OF_LAPACK = {
    *("sqrtm", "sqrtm_backward", "inverse_root", "polar_factor", "polar_factor_backward", "covariance_factor"),
    *("nearest_psd", "trace_sqrtm_product_backward"),
    *("feature_trace", "feature_trace_backward"),
}


def test_every_op_has_a_kernel_here():
    grid = dgmkern.ops.backends()
    assert set(grid) >= {"normal", "q_sample", "gaussian_rsample_kl", "gaussian_rsample_kl_backward"}
    assert all(row["reference"] is True for row in grid.values())
    assert {name for name, row in grid.items() if row["cpp"] is not True} == OF_LAPACK


@pytest.mark.parametrize("required", [False, True])
def test_set_up_without_a_compiler_installs_the_package_unless_told_otherwise(tmp_path, required):
    env = {**os.environ, "PATH": str(tmp_path), "DGMKERN_REQUIRE_NATIVE": "1" if required else "0"}
    env.pop("CXX", None)
    build = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert "no C++ compiler found" in build.stderr
    assert (build.returncode != 0) == required
