# SPDX-License-Identifier: Apache-2.0
"""The device: its choice, its errors and its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rvrt_cli.device
from rvrt_cli.device import Device, certain_device, host_free_bytes, memory_errors, set_environment, use_device
from rvrt_cli.errors import OptionError, OutOfMemoryError, RvrtError


def test_the_cpu_is_always_available() -> None:
    device = use_device("cpu")
    assert (device.kind, device.precision) == ("cpu", "float32")
    assert device.free_bytes() is None


@pytest.mark.slow
def test_a_program_that_has_used_mindspore_can_still_load_a_network() -> None:
    code = "import mindspore as ms; (ms.Tensor([1.0]) + 1).asnumpy()\n"
    code += "from rvrt_cli.device import use_device; assert use_device('cpu').kind == 'cpu'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_mindspore_prints_no_errors_that_it_does_not_raise() -> None:
    """On 12 cores or more it logs an error for each slice of a tensor that a compiled stage is given."""
    code = "from rvrt_cli.device import use_device; use_device('cpu')\n"
    code += "import mindspore as ms; ms.log.error('noticed'); print('done')"
    environment = {name: value for name, value in os.environ.items() if name != "GLOG_v"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout.split(), done.stderr) == (["done"], "")


@pytest.mark.parametrize(("limit", "expected"), [("portable", "SSE41"), ("avx2", "AVX2"), ("avx512", "AVX2")])
def test_mindspores_operations_stay_within_the_instruction_set(
    monkeypatch: pytest.MonkeyPatch, limit: str, expected: str
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("RVRT_ISA", limit)
    set_environment()
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == expected


@pytest.mark.parametrize("kind", ["gpu", "ascend"])
def test_missing_accelerator_is_refused_with_the_remedy(kind: str) -> None:
    import mindspore as ms

    if ms.hal.is_available({"gpu": "GPU", "ascend": "Ascend"}[kind]):
        pytest.skip(f"this machine has a {kind}")
    with pytest.raises(RvrtError, match=f"--device {kind}.*--device cpu"):
        use_device(kind)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(OptionError, match="float16"):
        use_device("cpu", "float16")
    with pytest.raises(OptionError, match="tpu"):
        use_device("tpu")


def test_bfloat16_is_refused_in_one_line_where_the_cpu_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rvrt_cli.device, "has_bfloat16", lambda: False)
    for choose in (use_device, certain_device):
        with pytest.raises(OptionError, match="--precision bfloat16: this CPU has neither AMX") as refused:
            choose("cpu", "bfloat16")
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(rvrt_cli.device, "has_bfloat16", lambda: True)
    expected = Device("cpu", "bfloat16")
    assert use_device("cpu", "bfloat16") == certain_device("cpu", "bfloat16") == expected


@pytest.mark.parametrize("kind", ["gpu", "ascend"])
def test_a_missing_driver_is_known_without_mindspore(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rvrt_cli.device, "_ascend_problem", lambda: "no driver")
    monkeypatch.setattr(rvrt_cli.device, "driver_problem", lambda: "no driver")
    with pytest.raises(RvrtError, match=rf"--device {kind}:1: no driver; or choose --device cpu"):
        rvrt_cli.device.check_device(f"{kind}:1")
    for usable in ("auto", "cpu"):
        rvrt_cli.device.check_device(usable)
    with pytest.raises(OptionError, match="float16: needs an accelerator"):
        rvrt_cli.device.check_device("cpu", "float16")


@pytest.mark.parametrize("kind", ["gpu", "ascend", "gpu:1"])
def test_bfloat16_is_refused_on_an_accelerator_before_it_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(rvrt_cli.device, "has_bfloat16", lambda: True)
    monkeypatch.setattr(rvrt_cli.device, "missing_accelerators", lambda kind: pytest.fail("MindSpore is asked"))
    for choose in (use_device, certain_device):
        with pytest.raises(OptionError, match="only the CPU computes in bfloat16; choose float16, or --device cpu"):
            choose(kind, "bfloat16")


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512f avx512_bf16", True), ("amx_tile amx_bf16", True), ("fpu avx512f avx2", False)]
)
def test_bfloat16_is_read_off_the_flags_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool
) -> None:
    monkeypatch.setattr(rvrt_cli.device.Path, "read_text", lambda self: f"processor : 0\nflags : {flags}\n")
    assert rvrt_cli.device.has_bfloat16() is expected


def test_a_processor_whose_flags_cannot_be_read_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no /proc on macOS."""

    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", missing)
        found = rvrt_cli.device.has_bfloat16()
    assert found is False


@pytest.mark.parametrize("name", ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"])
def test_an_ascend_npu_needs_its_driver_and_the_environment_of_cann(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(variable, raising=False)
    assert "there is no Ascend driver" in str(rvrt_cli.device.missing_accelerators("ascend")["ascend"])
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: path == Path("/dev/davinci_manager"))
        unset = rvrt_cli.device.missing_accelerators("ascend")["ascend"]
        patch.setenv(name, "/usr/local/Ascend")
        complete = rvrt_cli.device.missing_accelerators("ascend")["ascend"]
    assert "CANN's environment is not set; run source" in str(unset)
    assert complete is None


def test_a_device_is_certain_without_mindspore_only_if_it_is_the_cpu() -> None:
    assert certain_device("cpu") == use_device("cpu")
    assert certain_device("gpu") is None, "MindSpore has to be asked"
    assert certain_device() in (None, use_device())
    for device in ("cpu", "tpu"):
        with pytest.raises(OptionError):
            certain_device(device, "float16")


def test_an_accelerator_that_may_be_there_makes_the_device_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rvrt_cli.device, "_ascend_problem", lambda: "no driver")
    for problem, device in (("no driver", Device("cpu")), (None, None)):
        monkeypatch.setattr(rvrt_cli.device, "load_gpu_plugin", lambda problem=problem: problem)
        assert certain_device() == device
    monkeypatch.setattr(rvrt_cli.device, "load_gpu_plugin", lambda: "no driver")
    with pytest.raises(OptionError, match="float16"):
        certain_device("auto", "float16")


@pytest.mark.parametrize(
    "words",
    [
        "Malloc for kernel output failed, Memory isn't enough, node:Default/Conv2D",
        "Device(id:0) memory isn't enough and alloc failed, kernel name: x, alloc size: 100B.",
        "CUDA error: out of memory",
    ],
)
def test_every_wording_of_out_of_memory_is_the_same_error(words: str) -> None:
    with pytest.raises(OutOfMemoryError, match="--tile"), memory_errors():
        raise RuntimeError(words)
    with pytest.raises(OutOfMemoryError), memory_errors():
        raise MemoryError


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes do not match"), memory_errors():
        raise RuntimeError("the shapes do not match")


def test_free_memory_is_within_the_machine() -> None:
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < host_free_bytes() <= installed


@pytest.mark.slow
def test_ctrl_c_while_mindspore_is_imported_ends_in_one_line() -> None:
    """An interrupted import left MindSpore half initialized, which aborted the process at exit."""
    code = (
        "import os, signal, sys, threading, time\n"
        "def ask():\n"
        "    while 'mindspore.common' not in sys.modules: time.sleep(0.001)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=ask, daemon=True).start()\n"
        "from rvrt_cli.cli import main\n"
        "sys.argv = ['rvrt', 'bench', '--frames', '2', '--size', '16x16']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "rvrt: interrupted")
