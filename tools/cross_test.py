#!/usr/bin/env python3
"""The kernels' tests on ARM processors, emulated: cross-built for 64-bit ARM, run by qemu-user.

    python tools/cross_test.py    install what is missing, build in build/cross_aarch64, test under each processor

Each processor must report exactly the instruction sets that it is here for, so that no run passes having tested scalar
only. The compiler and the emulator are packages of Debian and its kin; `make test` installs them if it may, and its
test is skipped, with the reason, where it may not. Standard library only: bootstrap.py imports this.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import debian
from debian import Unavailable as Unavailable

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "cross_aarch64"

EMULATOR = "qemu-aarch64-static"
PACKAGE_OF = {"aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu", EMULATOR: "qemu-user-static"}

# Raspberry Pi 4, Raspberry Pi 5, and everything that the emulator knows.
INSTRUCTION_SETS: Mapping[str, Sequence[str]] = {
    "cortex-a72": ("neon",),
    "cortex-a76": ("neon", "neon_dotprod"),
    "max": ("neon", "neon_dotprod", "neon_i8mm"),
}


class Failed(Exception):
    """Something was built or tested and was not well."""


def missing_packages() -> list[str]:
    return [package for program, package in PACKAGE_OF.items() if shutil.which(program) is None]


def install_commands(packages: Sequence[str]) -> list[list[str]]:
    """What installs the packages without asking anyone anything; `Unavailable` where we may not, or need not."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        raise Unavailable("this machine is an ARM itself: its own tests are the test")
    return debian.install_commands(packages)


def program(name: str) -> str:
    """cmake or ctest: of the environment that runs us, else of the system."""
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    found = beside or shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not installed")
    return found


def run(argv: Sequence[str], **variables: str) -> str:
    """The output of a command; `Failed`, with it, when that did not end well."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    env = {**os.environ, **variables}
    done = subprocess.run(list(argv), text=True, errors="replace", env=env, check=False, **pipes)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}")
    return str(done.stdout)


def build() -> None:
    """Incremental: the second time takes a second."""
    toolchain = ROOT / "kernels_cpu" / "cmake" / "aarch64-linux-gnu.cmake"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"]
    run([program("cmake"), "-S", str(ROOT / "kernels_cpu"), "-B", str(BUILD), *generator, *options])
    run([program("cmake"), "--build", str(BUILD), "--parallel", str(os.cpu_count() or 1)])


def test(cpu: str) -> str:
    """Run every test program on one emulated processor; a line about it."""
    try:
        reported = run([EMULATOR, str(BUILD / "tests" / "test_isa")], QEMU_CPU=cpu).split()
    except Failed as failure:
        if "unable to find CPU model" in str(failure):
            raise Unavailable(f"{EMULATOR} is too old to know a {cpu}: 7.1 does") from None
        raise
    expected = ["scalar", *INSTRUCTION_SETS[cpu]]
    if reported != expected:
        raise Failed(f"{cpu}: tests would cover {' '.join(reported)}, not {' '.join(expected)}")
    jobs = str(os.cpu_count() or 1)
    ctest = [program("ctest"), "--test-dir", str(BUILD), "--output-on-failure", "--no-tests=error", "-j", jobs]
    summary = next((line for line in run(ctest, QEMU_CPU=cpu).splitlines() if "tests passed" in line), "no summary")
    return f"{cpu}: {' '.join(reported)}: {summary}"


def main() -> int:
    try:
        packages = missing_packages()
        for command in install_commands(packages) if packages else []:
            run(command)
        build()
        for cpu in INSTRUCTION_SETS:
            print(test(cpu), flush=True)
    except (Unavailable, Failed) as error:
        print(f"ARM kernels not tested: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
