"""Build the single file: `python packaging/single_file.py OUTPUT`, with the Python to include.

Needs a C compiler that can link statically (gcc or clang with libc6-dev) and a Python on glibc. The result
runs on any Linux with this machine's architecture; it needs no Python and no glibc there. docs/operations.md,
"The single file", compares it with PyInstaller, PEX and shiv.
"""

import argparse
import compileall
import hashlib
import os
import py_compile
import re
import shutil
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
MAGIC = b"agentd\x01\x00"
# Standard library modules for development, tests and graphics, which a daemon does not use.
LEFT_OUT = {
    "__pycache__", "config", "curses", "dbm", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data",
    "site-packages", "dist-packages", "sqlite3", "test", "tests", "tkinter", "turtledemo", "unittest", "venv", "wsgiref",
    "xmlrpc", "_pyrepl", "__phello__", "cgi.py", "turtle.py", "pydoc.py", "doctest.py",
}  # fmt: skip
LEFT_OUT_MODULES = re.compile(
    r"(_test|_xxtest|xxlimited|xxsubtype|_ctypes_test|_tkinter|_curses|_sqlite3|_dbm|_gdbm|nis|ossaudiodev|audioop|readline|_codecs_(cn|hk|iso2022|jp|kr|tw)\.)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        loader = fill(tree)
        write(output, launcher(Path(scratch)), tree, loader)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def fill(tree: Path) -> str:
    """Copy Python, libraries, packages and start.py to `tree`; return the name of the dynamic loader."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library = tree / "lib" / version
    (tree / "bin").mkdir(parents=True)
    interpreter = Path(sys.executable).resolve()
    shutil.copy(interpreter, tree / "bin" / "python3")
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=_left_out, symlinks=False)
    # Debian's multiarch builds have their extension modules elsewhere; copy them to where Python searches.
    dynload = Path(sysconfig.get_config_var("DESTSHARED"))
    if not (library / "lib-dynload").exists() and dynload.is_dir():
        shutil.copytree(dynload, library / "lib-dynload", ignore=_left_out)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    pip += ["--upgrade", "--target", str(tree / "packages")]
    run(*pip, "--only-binary=:all:", "--require-hashes", "--requirement", HERE / "requirements.txt")
    run(*pip, "--no-deps", HERE.parent)
    shutil.rmtree(tree / "packages" / "bin", ignore_errors=True)
    shutil.copy(HERE / "start.py", tree / "start.py")
    compileall.compile_dir(
        tree,
        quiet=1,
        legacy=True,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        stripdir=tree,
    )
    for pattern in ("*.py", "*.pyi", "*.pyx", "*.pxd", "*.c", "*.h", "*.a"):
        for path in tree.rglob(pattern):
            path.unlink()
    loader = _libraries(tree, interpreter)
    if strip := shutil.which("strip"):
        for path in [tree / "bin" / "python3", *tree.rglob("*.so"), *tree.rglob("*.so.*")]:
            if "ld-" not in path.name:
                subprocess.run([strip, "--strip-unneeded", path], check=False, capture_output=True)
    return loader


def _left_out(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names
        if name in LEFT_OUT or name.startswith("config-") or ("lib-dynload" in folder and LEFT_OUT_MODULES.match(name))
    }  # fmt: skip


def _libraries(tree: Path, interpreter: Path) -> str:
    """Copy every shared library that a file in the tree needs; return the file name of the loader."""
    loader = ""
    for binary in [interpreter, *tree.rglob("*.so")]:
        listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
        for path in map(Path, re.findall(r"(/\S+) \(0x", listed)):
            if not (tree / "lib" / path.name).exists():
                shutil.copy(path.resolve(), tree / "lib" / path.name)
            if path.name.startswith("ld-"):
                loader = path.name
    if not loader:
        sys.exit(f"{interpreter} is not linked against a shared glibc")
    return loader


def launcher(scratch: Path) -> bytes:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        sys.exit("no C compiler; on Debian: apt-get install gcc libc6-dev")
    # -Wno-format-truncation: unpack_below() checks the length of the base directory, which the compiler
    # cannot know.
    flags = ["-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation"]
    run(compiler, *flags, "-o", scratch / "launcher", HERE / "launcher.c")
    return (scratch / "launcher").read_bytes()


def write(output: Path, head: bytes, tree: Path, loader: str) -> None:
    entries = bytearray()
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree)).encode()
        mode, data = path.stat().st_mode, b"" if path.is_dir() else path.read_bytes()
        if path.is_dir():
            mode = stat.S_IFDIR
        entries += struct.pack("=QQQ", mode, len(name), len(data)) + name + data
    key = hashlib.sha256(entries).hexdigest()[:16].encode()
    trailer = struct.pack("=QQ16s32s8s", len(head), len(entries), key, loader.encode(), MAGIC)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".new")
    temporary.write_bytes(head + entries + trailer)
    temporary.chmod(0o755)
    temporary.replace(output)


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
