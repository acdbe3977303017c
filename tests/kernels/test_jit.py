import ctypes
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from robustprune.kernels import jit

pytestmark = pytest.mark.slow

AXPY = """
declare <W x float> @llvm.fma.vWf32(<W x float>, <W x float>, <W x float>)

define void @axpy(i64 %count, ptr noalias %factor, ptr noalias %x, ptr noalias %y) {
start:
  %a = load float, ptr %factor
  %first = insertelement <W x float> poison, float %a, i32 0
  %as = shufflevector <W x float> %first, <W x float> poison, <W x i32> zeroinitializer
  br label %body
body:
  %i = phi i64 [ 0, %start ], [ %next, %body ]
  %from = getelementptr float, ptr %x, i64 %i
  %to = getelementptr float, ptr %y, i64 %i
  %xs = load <W x float>, ptr %from, align 4
  %ys = load <W x float>, ptr %to, align 4
  %sum = call <W x float> @llvm.fma.vWf32(<W x float> %as, <W x float> %xs, <W x float> %ys)
  store <W x float> %sum, ptr %to, align 4
  %next = add i64 %i, W
  %more = icmp slt i64 %next, %count
  br i1 %more, label %body, label %end
end:
  ret void
}
"""
# A kernel compiled and run in a process of its own; what comes before it is the case.
SCRIPT = f"""
import ctypes, os, warnings
warnings.simplefilter("always")
from robustprune.kernels import jit
CASE
text = {AXPY!r}.replace("W", str(jit.vector_width()))
axpy = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 3)(jit.compiled(text, "axpy"))
factor, x, y = (ctypes.c_float * 1)(3), (ctypes.c_float * 32)(*range(32)), (ctypes.c_float * 32)()
axpy(32, factor, x, y)
assert list(y) == [3 * value for value in range(32)]
print("computed")
"""
NO_COMPILER = """
from llvmlite import binding
def refused(*_, **__):
    raise AssertionError("compiled")
parse = binding.parse_assembly
binding.parse_assembly = lambda text, **options: refused() if text else parse(text, **options)
binding.create_pass_builder = refused
"""

needs_kernels = pytest.mark.skipif(jit.available() is not None, reason=str(jit.available()))


def kernel(width: int) -> str:
    return AXPY.replace("W", str(width))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROBUSTPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def computed(
    case: str = "", without: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in without}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("CASE", case)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "computed\n"
    return result


@needs_kernels
def test_a_compiled_function_computes(folder: Path) -> None:
    text = kernel(jit.vector_width())
    address = jit.compiled(text, "axpy")
    assert jit.compiled(text, "axpy") == address
    axpy = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * 3)(address)
    rng = np.random.default_rng(0)
    factor, x, y = (rng.standard_normal(n, np.float32) for n in (1, 64, 64))
    expected = factor * x + y
    axpy(64, factor.ctypes.data, x.ctypes.data, y.ctypes.data)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@needs_kernels
def test_wrong_ir_and_an_unknown_symbol_are_errors(folder: Path) -> None:
    with pytest.raises(RuntimeError):
        jit.compiled("define nonsense", "axpy")
    with pytest.raises(ValueError, match="no function 'saxpy'"):
        jit.compiled(kernel(jit.vector_width()), "saxpy")


@needs_kernels
def test_another_process_loads_what_was_kept_without_the_compiler(folder: Path) -> None:
    assert not computed().stderr
    (kept,) = folder.iterdir()
    assert (folder.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o600)
    before = kept.stat().st_mtime_ns, kept.read_bytes()
    assert not computed(NO_COMPILER).stderr
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == before


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize(
    "harm", ["damaged", "cut", "empty", "readable", "foreign", "linked", "renamed"]
)
def test_a_file_that_is_not_as_it_was_written_is_compiled_anew(folder: Path, harm: str) -> None:
    computed()
    (kept,) = folder.iterdir()
    content = kept.read_bytes()
    if harm == "damaged":
        kept.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif harm == "cut":
        kept.write_bytes(content[:100])
    elif harm == "empty":
        kept.write_bytes(b"")
    elif harm == "readable":
        kept.chmod(0o644)
    elif harm == "foreign":
        try:
            os.chown(kept, 54321, 54321)
        except OSError:
            pytest.skip("only root can give a file away")
    elif harm == "linked":
        kept.symlink_to(kept.rename(folder.parent / "elsewhere"))
    else:  # the sound code of another kernel
        other = kernel(jit.vector_width()).replace("fma.v", "fmuladd.v")
        jit.compiled(other, "axpy")
        (another,) = set(folder.iterdir()) - {kept}
        another.replace(kept)
    assert not computed().stderr
    assert kept.read_bytes() == content
    assert (kept.lstat().st_mode & 0o777, kept.lstat().st_uid) == (0o600, os.geteuid())
    assert [path.name for path in folder.iterdir()] == [kept.name]


@needs_kernels
def test_an_unsafe_folder_is_left_alone_and_said_once(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    second = "jit.compiled('define void @other() { ret void }', 'other')"
    message = computed(second).stderr
    assert len(re.findall("Warning", message)) == 1
    assert f"others may write to {folder}" in message
    assert "set ROBUSTPRUNE_CACHE to a folder of your own" in message
    assert not list(folder.iterdir())


def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    try:
        os.chown(folder, 54321, 54321)
    except OSError:
        pytest.skip("only root can give a folder away")
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert jit.cache_folder() is None


def test_a_linked_folder_is_refused_but_its_parent_may_be_a_link(folder: Path) -> None:
    elsewhere = folder.parent.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.parent.mkdir()
    folder.symlink_to(elsewhere)
    with pytest.warns(RuntimeWarning, match="symbolic link"):
        assert jit.cache_folder() is None
    folder.unlink()
    folder.parent.rmdir()
    folder.parent.symlink_to(elsewhere)
    assert jit.cache_folder() == folder
    assert (elsewhere / "kernels").is_dir()


def test_the_folder_is_made_for_the_user_alone_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0)
    try:
        assert jit.cache_folder() == folder
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700


def test_the_folder_lies_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROBUSTPRUNE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert jit.cache_folder() == tmp_path / "caches" / "robustprune" / "kernels"
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        place = "Library/Caches" if sys.platform == "darwin" else ".cache"
        assert jit.cache_folder() == tmp_path / "home" / place / "robustprune" / "kernels"


@needs_kernels
def test_kernels_are_compiled_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stderr = computed(ROBUSTPRUNE_CACHE=str(tmp_path / "file")).stderr
    assert stderr.count("Warning: compiled kernels are not kept") == 1
    homeless = "import pwd; pwd.getpwuid = {}.__getitem__"  # a container's user without a name
    stderr = computed(homeless, ("HOME", "XDG_CACHE_HOME", "ROBUSTPRUNE_CACHE")).stderr
    assert stderr.count("Warning: compiled kernels are not kept") == 1


@needs_kernels
def test_kernels_are_compiled_where_the_disk_is_full(folder: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    stderr = computed(full).stderr
    assert f"compiled kernels cannot be written to {folder} (File too large)" in stderr
    assert not list(folder.iterdir())


def test_without_llvmlite_the_package_imports_and_says_what_helps() -> None:
    script = (
        "import sys; sys.modules['llvmlite'] = None\n"
        "from robustprune.kernels import jit\n"
        "print(jit.available())\n"
        "try: jit.compiled('', '')\n"
        "except jit.Unavailable as reason: print(reason)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert out == "llvmlite is not installed: pip install llvmlite\n" * 2


@needs_kernels
def test_a_cpu_without_fused_multiply_add_has_no_kernels() -> None:
    script = (
        "from llvmlite import binding\n"
        "binding.get_process_triple = lambda: 'x86_64-unknown-linux-gnu'\n"
        "binding.get_host_cpu_features = lambda: binding.FeatureMap(sse2=True)\n"
        "from robustprune.kernels import jit\n"
        "print(jit.available())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith("LLVM knows of no FMA instructions in this CPU")


@needs_kernels
@pytest.mark.parametrize(
    ("triple", "features", "width", "registers"),
    [
        ("x86_64-unknown-linux-gnu", {"fma": True, "avx2": True, "avx512f": True}, 16, 32),
        ("x86_64-apple-darwin23", {"fma": True, "avx2": True, "avx512f": False}, 8, 16),
        ("arm64-apple-darwin23", {}, 4, 32),
    ],
)
def test_vectors_are_those_of_the_cpu(
    triple: str, features: dict[str, bool], width: int, registers: int
) -> None:
    script = (
        "from llvmlite import binding\n"
        f"binding.get_process_triple = lambda: {triple!r}\n"
        f"binding.get_host_cpu_features = lambda: binding.FeatureMap({features!r})\n"
        "from robustprune.kernels import jit\n"
        "print(jit.available(), jit.vector_width(), jit.registers())\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert out == f"None {width} {registers}\n"


@needs_kernels
@pytest.mark.parametrize(
    ("triple", "cpu", "width", "instruction"),
    [
        ("x86_64-unknown-linux-gnu", "x86-64-v4", 16, r"vfmadd\w+ps.*%zmm"),
        # A CPU that LLVM would rather give vectors of 256 bits when it chooses them itself.
        ("x86_64-unknown-linux-gnu", "rocketlake", 16, r"vfmadd\w+ps.*%zmm"),
        ("x86_64-unknown-linux-gnu", "x86-64-v3", 8, r"vfmadd\w+ps.*%ymm"),
        ("aarch64-unknown-linux-gnu", "generic", 4, r"fmla\s+v\d+\.4s"),
        ("arm64-apple-darwin23", "apple-m1", 4, r"fmla\.4s"),
    ],
)
def test_a_kernel_is_assembled_for_other_machines(
    triple: str, cpu: str, width: int, instruction: str
) -> None:
    text = jit.assembly(kernel(width), triple, cpu)
    # One vector instruction in the loop: neither split, nor unrolled, nor a call of the C library.
    assert len(re.findall(instruction, text)) == 1
    assert not re.search(r"\b(call|bl)\b", text)


@needs_kernels
def test_many_threads_and_processes_compile_the_same_kernel(folder: Path) -> None:
    case = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        f"same = {AXPY!r}.replace('W', str(jit.vector_width()))\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    found = pool.map(lambda _: jit.compiled(same, 'axpy'), range(32))\n"
        "    assert len(set(found)) == 1"
    )
    script = SCRIPT.replace("CASE", case)
    processes = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in processes:
        _, stderr = process.communicate()
        assert (process.returncode, stderr) == (0, "")
    assert len(list(folder.iterdir())) == 1


def test_no_warning_where_the_folder_is_safe(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jit.cache_folder() == folder
        assert jit.cache_folder() == folder
