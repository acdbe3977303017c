"""Machine code from LLVM's intermediate representation (IR), for this CPU, kept for next time.

Compiling a kernel takes tenths of a second, so the object code is kept on disk. Whoever can write
there can run code as the user: the folder must be the user's own, and so must each file in it.
Where that cannot be had, kernels are compiled in each process anew.

llvmlite is imported here only, and only when it is used: where it is missing, `available` says so.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# A part of each key: raised when the files' format changes, or how IR is optimised.
_FORMAT = 1
_engines: dict[str, Any] = {}  # an engine owns its code: it lives as long as the process
_lock = threading.Lock()


class Unavailable(RuntimeError):  # noqa: N818 - a state of the machine rather than an error
    """The reason why this machine has no kernels, and what helps."""


@dataclass(frozen=True)
class _Host:
    """This machine, as LLVM names it, and the vectors of floats that it has."""

    triple: str
    cpu: str
    features: str
    width: int
    registers: int


def available() -> str | None:
    """None, or one line that says why this machine has no kernels and what helps."""
    try:
        _host()
    except Unavailable as reason:
        return str(reason)
    return None


def vector_width() -> int:
    """Floats in one vector of this CPU: 16 (AVX-512), 8 (AVX2) or 4 (NEON).

    Raises:
        Unavailable: This machine has no kernels.
    """
    return _host().width


def registers() -> int:
    """Vector registers of this CPU: 32 (AVX-512, NEON) or 16 (AVX2).

    Raises:
        Unavailable: This machine has no kernels.
    """
    return _host().registers


def machine() -> str:
    """One line that names all that the speed of kernels depends on: the CPU, and LLVM's version.

    Raises:
        Unavailable: This machine has no kernels.
    """
    from llvmlite import binding

    host = _host()
    version = ".".join(map(str, binding.llvm_version_info))
    return f"{host.cpu} {host.triple} vectors of {host.width} LLVM {version}"


def compiled(text: str | Callable[[], str], symbol: str, *, source: str | None = None) -> int:
    """Address of a function, compiled for this CPU unless this or an earlier process did so.

    The code stays in memory until the process ends. May be called by several threads.

    Args:
        text: LLVM IR of a module that defines the function and calls nothing but intrinsics; or
            makes it, where it is needed.
        symbol: Name of the function.
        source: All that the text follows from; the text itself if it is not given.

    Raises:
        Unavailable: This machine has no kernels.
        RuntimeError: ``text`` is not valid IR.
        ValueError: ``text`` does not define ``symbol``.
    """
    host = _host()
    if source is None:
        source = text = text if isinstance(text, str) else text()
    key = _key(host, source)
    with _lock:
        if key not in _engines:
            _engines[key] = _loaded(host, _object(host, key, text))
        address: int = _engines[key].get_function_address(symbol)
    if not address:
        raise ValueError(f"the IR defines no function {symbol!r}")
    return address


def assembly(text: str, triple: str, cpu: str, features: str = "") -> str:
    """Assembly of IR for any machine that LLVM knows, optimised as `compiled` does it.

    Args:
        text: LLVM IR of a module.
        triple: The machine, such as ``"aarch64-unknown-linux-gnu"``.
        cpu: LLVM's name of its CPU, such as ``"x86-64-v3"``.
        features: What it has beyond that CPU, such as ``"+avx2,-fma"``.

    Raises:
        RuntimeError: LLVM does not know the machine, or ``text`` is not valid IR.
    """
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = _machine(triple, cpu, features)
    return str(machine.emit_assembly(_optimised(text, machine)))


def cache_folder() -> Path | None:
    """The folder that holds compiled kernels, made and checked; None (and a warning) if unsafe.

    It is ``kernels`` in ``$ROBUSTPRUNE_CACHE``, else in ``robustprune`` in the user's cache
    folder: ``$XDG_CACHE_HOME``, ``~/Library/Caches`` on macOS, ``~/.cache`` elsewhere.
    """
    with _opened_folder() as opened:
        return opened[0] if opened else None


@cache
def _host() -> _Host:
    if sys.platform == "win32":
        raise Unavailable("kernels run on Linux and macOS, not on Windows")
    if sys.byteorder != "little" or sys.maxsize < 2**32:
        raise Unavailable("kernels run on little-endian CPUs in a Python of 64 bits")
    try:
        from llvmlite import binding
    except ModuleNotFoundError:
        raise Unavailable("llvmlite is not installed: pip install llvmlite") from None
    except (ImportError, OSError) as error:
        fault = str(error).splitlines()[0]
        remedy = "pip install --force-reinstall llvmlite"
        raise Unavailable(f"llvmlite cannot be loaded ({fault}): {remedy}") from None
    if binding.llvm_version_info < (20,):
        raise Unavailable("llvmlite is too old: pip install 'llvmlite>=0.45'")
    try:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        binding.check_jit_execution()
    except OSError:
        raise Unavailable(
            "this system forbids running code that is made at run time: see its SELinux settings"
        ) from None
    except RuntimeError as error:
        raise Unavailable(f"LLVM cannot compile for this machine ({error})") from None
    triple = binding.get_process_triple()
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # the CPU's name may say enough
        features = binding.FeatureMap()
    machine = triple, binding.get_host_cpu_name(), features.flatten()
    architecture = triple.partition("-")[0]
    if architecture in ("aarch64", "arm64"):
        return _Host(*machine, width=4, registers=32)
    if architecture != "x86_64":
        raise Unavailable(f"kernels run on x86-64 and 64-bit ARM CPUs, not on {architecture}")
    # Without it each llvm.fma would be a call of the C library, slower than a dense network.
    if not features.get("fma"):
        raise Unavailable(f"LLVM knows of no FMA instructions in this CPU ({machine[1]})")
    if features.get("avx512f"):
        return _Host(*machine, width=16, registers=32)
    return _Host(*machine, width=8, registers=16)


def _key(host: _Host, source: str) -> str:
    import llvmlite
    from llvmlite import binding

    versions = _FORMAT, llvmlite.__version__, binding.llvm_version_info
    determinants = *versions, host.triple, host.cpu, host.features, source
    return hashlib.sha256("\n".join(map(str, determinants)).encode()).hexdigest()


def _object(host: _Host, key: str, text: str | Callable[[], str]) -> bytes:
    """Object code of ``text``: from the folder, else compiled and, if possible, put there."""
    with _opened_folder() as opened:
        code = _read(opened[1], key) if opened else None
        if code is not None:
            return code
        machine = _machine(host.triple, host.cpu, host.features)
        text = text if isinstance(text, str) else text()
        code = bytes(machine.emit_object(_optimised(text, machine)))
        if opened:
            try:
                _write(opened[1], key, code)
            except OSError as error:
                fault = error.strerror or str(error)
                _warn(f"compiled kernels cannot be written to {opened[0]} ({fault})")
    return code


def _loaded(host: _Host, code: bytes) -> Any:
    from llvmlite import binding

    machine = _machine(host.triple, host.cpu, host.features)
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


def _machine(triple: str, cpu: str, features: str) -> Any:
    from llvmlite import binding

    target = binding.Target.from_triple(triple)
    return target.create_target_machine(cpu=cpu, features=features, opt=3)


def _optimised(text: str, machine: Any) -> Any:
    """The module of ``text``, as its author vectorised and unrolled it, else optimised."""
    from llvmlite import binding

    module = binding.parse_assembly(text, context=binding.create_context())
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module


@contextmanager
def _opened_folder() -> Iterator[tuple[Path, int] | None]:
    """The folder and a descriptor of it; None, and a warning, where it is not safe to use.

    Files are opened relative to the descriptor, so that what was checked is what is used.
    """
    try:
        folder = _folder()
        descriptor = _checked(folder)
    except (OSError, RuntimeError) as error:  # a RuntimeError: there is no home
        _warn(f"compiled kernels are not kept: {error}")
        yield None
        return
    try:
        yield folder, descriptor
    finally:
        os.close(descriptor)


def _folder() -> Path:
    if own := os.environ.get("ROBUSTPRUNE_CACHE"):
        return Path(own).expanduser().absolute() / "kernels"
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(caches):  # as its specification says
        return Path(caches, "robustprune", "kernels")
    home = Path.home().absolute()
    place = home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"
    return place / "robustprune" / "kernels"


def _checked(folder: Path) -> int:
    """Descriptor of ``folder``, made if there is none; OSError where it is not safe to use."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder, flags)
    except OSError as error:
        fault = "it is a symbolic link" if os.path.islink(folder) else error.strerror
        raise OSError(f"{folder} cannot be used ({fault})") from None
    state = os.fstat(descriptor)
    if state.st_uid == os.geteuid() and not state.st_mode & 0o022:
        return descriptor
    os.close(descriptor)
    if state.st_uid != os.geteuid():
        raise OSError(f"{folder} belongs to another user")
    raise OSError(f"others may write to {folder} (chmod go-w helps)")


@cache  # once per process and fault
def _warn(fault: str) -> None:
    remedy = "set ROBUSTPRUNE_CACHE to a folder of your own"
    message = f"{fault}; each process compiles its own: {remedy}"
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()


def _read(folder: int, key: str) -> bytes | None:
    """Object code that was kept as ``key``; None if there is none, or not as we wrote it."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(f"{key}.o", flags, dir_fd=folder)
    except OSError:
        return None
    try:
        state = os.fstat(descriptor)
        own = state.st_uid == os.geteuid() and state.st_mode == stat.S_IFREG | 0o600
        content = os.read(descriptor, state.st_size) if own else b""
    except OSError:
        return None
    finally:
        os.close(descriptor)
    size = hashlib.sha256().digest_size
    code = content[size:]
    return code if content[:size] == _digest(key, code) else None


def _write(folder: int, key: str, code: bytes) -> None:
    """Keep ``code`` as ``key``, in place of what is there; a reader sees all of it or nothing."""
    name = f".{key}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask is
            file.write(_digest(key, code) + code)
        os.replace(name, f"{key}.o", src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
