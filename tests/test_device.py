"""The machine as the system describes it: made-up sysfs trees, cgroups and Windows records, and this machine itself."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer import device
from edgeinfer.device import Core

EVERYONE = frozenset(range(64))


def put(root: Path, name: str, text: str | int) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def put_cpu(root: Path, number: int, siblings: str, **values: int) -> None:
    put(root, f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", siblings)
    for name, value in values.items():
        put(root, f"sys/devices/system/cpu/cpu{number}/{name.replace('__', '/')}", value)


def counts(cores: tuple[Core, ...]) -> tuple[int, int]:
    kinds = [core.kind for core in cores]
    return kinds.count("performance"), kinds.count("efficiency")


def test_hyper_threads_are_one_core(tmp_path: Path) -> None:
    for number in range(4):
        put_cpu(tmp_path, number, f"{number % 2},{number % 2 + 2}")
    cores = device.linux_cores(tmp_path)
    assert cores == (Core("performance", (0, 2)), Core("performance", (1, 3)))
    assert device.threads_for(cores, EVERYONE, None) == 2


def test_intel_hybrid_lists_its_efficiency_cores(tmp_path: Path) -> None:
    for number in range(4):
        put_cpu(tmp_path, number, f"{number & ~1}-{number | 1}")
    for number in range(4, 12):
        put_cpu(tmp_path, number, str(number))
    put(tmp_path, "sys/devices/cpu_core/cpus", "0-3")
    put(tmp_path, "sys/devices/cpu_atom/cpus", "4-11")
    cores = device.linux_cores(tmp_path)
    assert counts(cores) == (2, 8)
    assert device.threads_for(cores, EVERYONE, None) == 2
    assert device.threads_for(cores, frozenset({4, 5, 6}), None) == 3, "only efficiency cores are allowed"


@pytest.mark.parametrize(
    ("name", "values", "kinds"),
    [
        ("cpu_capacity", [1024, 870, 870, 250, 250, 250], (3, 3)),
        ("cpufreq__cpuinfo_max_freq", [5_100_000, 5_050_000, 3_300_000, 3_300_000], (2, 2)),
        ("cpufreq__cpuinfo_max_freq", [5_100_000, 4_900_000], (2, 0)),
        ("cpu_capacity", [1024, 1024], (2, 0)),
    ],
)
def test_big_little(tmp_path: Path, name: str, values: list[int], kinds: tuple[int, int]) -> None:
    for number, value in enumerate(values):
        put_cpu(tmp_path, number, str(number), **{name: value})
    assert counts(device.linux_cores(tmp_path)) == kinds


def test_an_offline_sibling_is_left_out(tmp_path: Path) -> None:
    put_cpu(tmp_path, 0, "0-1")
    (tmp_path / "sys/devices/system/cpu/cpu1").mkdir()
    (tmp_path / "sys/devices/system/cpu/cpuidle").mkdir()
    assert device.linux_cores(tmp_path) == (Core("performance", (0,)),)


def test_no_sysfs_is_no_cores(tmp_path: Path) -> None:
    assert device.linux_cores(tmp_path) == ()


def test_threads_heed_mask_and_quota() -> None:
    cores = device.numbered([("performance", 8, 16)])
    assert device.threads_for(cores, frozenset({0, 1, 2}), None) == 2, "threads 0 and 1 share a core"
    assert device.threads_for(cores, EVERYONE, 2.5) == 3
    assert device.threads_for(cores, EVERYONE, 0.2) == 1
    assert device.threads_for((), frozenset({3, 4}), None) == 2, "a system that tells of no cores"


def test_quota_is_the_tightest_level_of_version_2(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/a/b")
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", "cpu memory")
    put(tmp_path, "sys/fs/cgroup/a/cpu.max", "150000 100000")
    put(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000")
    assert device.cpu_quota(tmp_path) == 1.5
    names = [folder.name for folder in device.cgroup_folders("memory", tmp_path)]
    assert names == ["b", "a", "cgroup"]


def test_quota_of_version_1_where_the_name_is_the_hosts(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/docker/0123\n1:name=systemd:/")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", 50_000)
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", 100_000)
    assert device.cpu_quota(tmp_path) == 0.5


@pytest.mark.parametrize("text", ["-1", "max", "", "nonsense", "100000 0", "0 100000", "100000"])
def test_no_quota(tmp_path: Path, text: str) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/")
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", "cpu")
    put(tmp_path, "sys/fs/cgroup/cpu.max", text)
    assert device.cpu_quota(tmp_path) is None


def test_a_group_name_leads_nowhere_else(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/../../../etc")
    put(tmp_path, "etc/cpu.max", "100000 100000")
    put(tmp_path, "sys/fs/cgroup/cgroup.controllers", "cpu")
    assert device.cpu_quota(tmp_path) is None


def test_lists() -> None:
    assert device.parse_list("0-3,8") == [0, 1, 2, 3, 8]
    assert device.parse_list("") == device.parse_list("a-b") == device.parse_list("0-99999999999") == []


def test_names_of_processors(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: A  CPU @ 1 GHz")
    assert device.linux_model(tmp_path) == "A  CPU @ 1 GHz"
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 108.00")
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B\0")
    assert device.linux_model(tmp_path) == "Raspberry Pi 5 Model B"


def record(efficiency: int, *groups: tuple[int, int], relation: int = 0) -> bytes:
    head = struct.pack("<IIBB20xH", relation, 32 + 16 * len(groups), 0, efficiency, len(groups))
    return head + b"".join(struct.pack("<QH6x", mask, number) for mask, number in groups)


def test_windows_records() -> None:
    records = record(1, (0b11, 0)) + record(0, (0b100, 0), relation=3) + record(0, (0b1000, 1))
    assert device.windows_cores(records) == (Core("performance", (0, 1)), Core("efficiency", (67,)))
    assert device.windows_cores(record(0, (1, 0)) + record(0, (2, 0)))[1].kind == "performance"


@given(st.binary(max_size=200))
def test_windows_records_of_rubbish(records: bytes) -> None:
    device.windows_cores(records)


def test_this_machine() -> None:
    cpu = device.cpu()
    assert cpu.n_logical >= cpu.n_cores() >= 1
    assert cpu.n_cores() == cpu.n_cores("performance") + cpu.n_cores("efficiency")
    assert 1 <= device.default_threads() <= cpu.n_logical
    assert device.machine_key() == device.machine_key()
    assert "\n" not in device.machine_key()
    device.battery()
