"""What a process may have of memory and processors, as control groups of both versions say it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import native
import pytest
from helpers import smollm2

NONE_V1 = 9223372036854771712


def ask(*arguments) -> list[int | None]:
    program = native.build("print_resources", ["tests/c/print_resources.c", "runtime/base.c", "runtime/resources.c"])
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the system lets nobody allocate what is not there at once")
    assert done.returncode == 0
    return [None if word == "-" else int(word) for word in done.stdout.split()]


def limits(folder: Path, membership: str, files: dict[str, object]) -> list[int | None]:
    """memory, memory left, processors."""
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    (folder / "membership").write_text(membership)
    return ask("groups", folder / "groups", folder / "membership")


V2 = {"memory.max": 1000, "memory.current": 700, "memory.stat": "anon 5\ninactive_file 200", "cpu.max": "150000 100000"}
V1 = {"memory/a/memory.limit_in_bytes": 1000, "memory/a/memory.usage_in_bytes": 700,
      "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 200", "memory/memory.limit_in_bytes": NONE_V1,
      "memory/memory.usage_in_bytes": 900, "cpu/a/cpu.cfs_quota_us": 150000, "cpu/a/cpu.cfs_period_us": 100000,
      "cpu/cpu.cfs_quota_us": -1, "cpu/cpu.cfs_period_us": 100000}  # fmt: skip


@pytest.mark.parametrize(
    "membership, files, expected",
    [
        ("0::/\n", V2, [1000, 500, 2]),
        ("0::/a.slice/b:c.service\n", {f"a.slice/b:c.service/{name}": text for name, text in V2.items()}, [1000, 500, 2]),
        ("0::/a/b\n", {f"a/{name}": text for name, text in V2.items()}, [1000, 500, 2]),
        ("0::/../other\n", V2, [1000, 500, 2]),  # of another namespace: the mount is ours
        ("0::/a\n", V2 | {"a/cpu.max": "100 100000", "a/memory.max": "max"}, [1000, 500, 1]),
        ("0::/a\n", V2 | {"a/memory.max": 600, "a/memory.current": 650}, [600, 0, 2]),
        ("0::/\n", {"memory.max": "max", "memory.current": 700, "cpu.max": "max 100000"}, [None, None, None]),
        ("5:cpu,cpuacct:/a\n4:memory:/a/b\n1:name=systemd:/c\n0::/\n", V1, [1000, 500, 2]),
        ("5:cpuacct:/a\n4:cpuset,memory:/docker/x\n", V1, [NONE_V1, NONE_V1 - 900, None]),
        ("nonsense\n::\n0:\n", V2, [None, None, None]),
        ("", {}, [None, None, None]),
    ],
)
def test_groups(tmp_path, membership, files, expected):
    assert limits(tmp_path, membership, files) == expected


def test_without_groups(tmp_path):
    assert ask("groups", tmp_path, tmp_path / "none") == [None, None, None]


def test_what_was_promised_is_not_free():
    """What was allocated and not touched is missing from what others left free, not from all the memory there is."""
    size = 1 << 30
    before, after = ask("promise", size)
    if before is None or before < 2 * size:
        pytest.skip("there is too little free memory to promise a gigabyte")
    assert after is not None and before - after > size // 2


def test_a_context_that_cannot_be_is_refused_before_anything_is_made_for_it():
    """Tables of rotations for it alone are gigabytes, and 6 TB are asked for: no machine is to have these."""
    program = f"""
import resource, longheads
model = longheads.Model({str(smollm2())!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    model.session(ctx=2**28, attention="dense")
except longheads.OutOfMemoryError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    sentence, grown = done.stdout.splitlines()
    assert "5760.00 GiB" in sentence and int(grown) < 100 << 10
