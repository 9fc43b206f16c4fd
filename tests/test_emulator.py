"""The emulator that runs CUDA kernels on the CPU (tests/emulator): what it computes, and the mistakes it must catch."""

import subprocess

import native
import pytest


@pytest.fixture(scope="module")
def program():
    return native.build("test_emulator", ["tests/emulator/test_emulator.cpp", *native.EMULATOR],
                        [*native.EMULATED, *native.CXX_WARNINGS])


def test_it_computes(program):
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("ok\n", 0)


@pytest.mark.parametrize("mistake", range(1, 7), ids=["out of bounds", "different operations", "outside the mask",
                                                     "shared memory", "misaligned", "hang"])
def test_mistakes_are_caught(program, mistake):
    done = subprocess.run([program, str(mistake)], capture_output=True, text=True)
    assert done.returncode < 0  # a signal


def test_no_mistake_passes(program):
    assert subprocess.run([program, "0"]).returncode == 0
