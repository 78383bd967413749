"""The kernels in C (lrn.c, pool.c, winograd.c): compiled once for this processor and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import torch

from alexnet.compute import cpu_description
from alexnet.files import replacing

if TYPE_CHECKING:
    import ctypes

# No errno and no traps: with them, square roots are not done in vectors. Results are those of IEEE arithmetic.
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
SOURCES = ["common.c", "lrn.c", "pool.c", "winograd.c"]  # the first has what all others use


class Lack(NamedTuple):
    """A kernel that is not there, as a sentence and as its parts."""

    reason: str
    cost: str
    mend: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.cost}; {self.mend}."


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where it cannot be compiled or loaded."""
    return _found()[0]


def missing() -> Lack | None:
    """Why there is no `library`; None where there is one."""
    return _found()[1]


@lru_cache(maxsize=1)
def _found() -> tuple[ctypes.CDLL | None, Lack | None]:
    cost = "local response normalisation runs as a convolution, several times slower, other layers as torch has them"
    if os.name == "nt":
        return None, Lack("the kernels in C are not made for Windows", cost, "Linux in WSL has them")
    try:
        return _opened(_compiler()), None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() if error.stderr else []
        reason = f"the C compiler failed ({said[-1] if said else f'exit code {error.returncode}'})"
        mend = "set CC to one that works"
    except subprocess.TimeoutExpired:
        reason, mend = "the C compiler did not end within a minute", "set CC to one that works"
    except _NoCompiler as error:
        reason, mend = str(error), f"{_installation()}, or set CC"
    except (OSError, RuntimeError, AttributeError, ImportError) as error:  # no home, no room, no library, no ctypes
        reason, mend = f"the C kernel could not be kept or loaded ({error})", "set XDG_CACHE_HOME to a folder of yours"
    return None, Lack(reason, cost, mend)


class _NoCompiler(Exception):
    pass


def _installation() -> str:
    """What to type for a C compiler on this system."""
    if sys.platform == "darwin":
        return "xcode-select --install"
    commands = {"apt-get": "sudo apt-get install gcc libc6-dev", "dnf": "sudo dnf install gcc"}
    return next((command for program, command in commands.items() if shutil.which(program)), "install one")


def _compiler() -> list[str]:
    command = os.environ.get("CC", "cc")
    try:
        given = shlex.split(command)
    except ValueError as error:  # a quote left open
        raise _NoCompiler(f"CC={command} is no command") from error
    if not given or shutil.which(given[0]) is None:
        raise _NoCompiler(f"no C compiler was found ({f'CC={command}' if 'CC' in os.environ else 'cc'})")
    return given


def _opened(compiler: list[str]) -> ctypes.CDLL:
    path = _compiled(compiler)
    try:
        return _load(path)
    except (OSError, AttributeError):  # damaged
        path.unlink(missing_ok=True)
        return _load(_compiled(compiler))


def cache_folder() -> Path:
    """Where compiled kernels are kept. Raises RuntimeError for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"


def is_parallel() -> bool:
    """Whether the `library` shares its work between threads: where the compiler has no OpenMP it does not."""
    found, openmp = library(), {*_openmp()}
    if found is None or not openmp:
        return False
    return any(str(path) == found._name and openmp <= {*extras} for extras, path in _ways(_compiler()))


def _source() -> bytes:
    folder = files("alexnet.models.native")
    return b"".join(folder.joinpath(name).read_bytes() for name in SOURCES)


def _ways(compiler: list[str]) -> list[tuple[list[str], Path]]:
    """Additional flags, the best first, and the file of the library that is compiled with them."""
    ways, source = [], _source()
    for extras in _extras():
        # A home directory may be shared by machines with other processors.
        told = " ".join([*compiler, *FLAGS, *extras, _processor()])
        key = hashlib.sha256(source + told.encode()).hexdigest()[:16]
        ways.append((extras, cache_folder() / f"kernels-{key}.so"))
    return ways


def _compiled(compiler: list[str]) -> Path:
    """The library's file, made if it is not there yet; of two processes that make it, the last one's stays."""
    ways = _ways(compiler)
    kept = any(_is_ours(path) for _, path in ways)
    for extras, path in ways:
        if _is_ours(path):
            break
        # Where only a lesser one is kept, the compiler did not do better; it may have what it lacked since.
        if kept and not _understood(compiler, extras):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path) as made:  # a file cut short by a crash would end the process that loads it
                _compile(compiler, extras, _source(), made)
                made.chmod(0o755)
            break
        except subprocess.CalledProcessError:
            if not extras:
                raise
    return path


def _is_ours(path: Path) -> bool:
    """Whether a library is there that nobody else can have written, as in a cache that a group shares."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return found.st_uid in (os.getuid(), 0) and not found.st_mode & 0o022


def _compile(compiler: list[str], extras: list[str], source: bytes, made: Path) -> None:
    command = [*compiler, *FLAGS, *extras, "-x", "c", "-", "-o", str(made), "-lm"]
    subprocess.run(command, input=source, check=True, capture_output=True, timeout=60)


def _understood(compiler: list[str], extras: list[str]) -> bool:
    """Whether a compiler knows flags, and finds the library of theirs; it takes a moment."""
    with TemporaryDirectory() as folder:
        try:
            _compile(compiler, extras, b"int nothing;", Path(folder) / "nothing.so")
        except subprocess.CalledProcessError:
            return False
    return True


def _extras() -> list[list[str]]:
    """Flags, of which the first ones that the compiler knows are used: some have no -march=native, some no OpenMP."""
    openmp = _openmp()
    return [["-march=native", *openmp], ["-march=native"], openmp, []]


def _openmp() -> list[str]:
    """The flags for several threads. On a Mac they are of torch's own runtime: Apple's compiler has none, and another
    one beside it would end the process."""
    if sys.platform != "darwin":
        return ["-fopenmp"]
    runtime = Path(torch.__file__).parent / "lib" / "libomp.dylib"
    found = runtime.exists()
    return ["-Xpreprocessor", "-fopenmp", str(runtime), f"-Wl,-rpath,{runtime.parent}"] if found else []


def _processor() -> str:
    """What tells processors with other instructions apart."""
    described = cpu_description()
    told = [described[name] for name in ("model name", "flags", "Features") if name in described]
    return " ".join(told) or f"{platform.machine()} {platform.processor()}"


def _load(path: Path) -> ctypes.CDLL:
    import ctypes  # a Python may have been built without it

    loaded = ctypes.CDLL(str(path))
    pointer, long, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
    for function, second in ((loaded.lrn_fp32, pointer), (loaded.lrn_bf16, pointer), (loaded.lrn_rounded, real)):
        function.argtypes = [pointer, second, pointer] + [long] * 4 + [real] * 3 + [ctypes.c_int]
        function.restype = None
    for kind in ("max", "max_gradient", "average_gradient"):
        for dtype in ("fp32", "bf16"):
            function = getattr(loaded, f"{kind}_{dtype}")
            function.argtypes = [pointer] * 3 + [long] * 8 + [ctypes.c_int]
            function.restype = None
    for function in (loaded.winograd_tiles, loaded.winograd_images):
        function.argtypes = [pointer] * 4 + [long] * 10 + [ctypes.c_int]
        function.restype = None
    return loaded
