# SPDX-License-Identifier: Apache-2.0
"""The yardstick is the best product that the machine shows, and RVRT_ISA limits kernels and yardstick alike."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import numpy as np
import pytest

from rvrt_cli.bench import matrix_product
from rvrt_cli.bench.isolated import run_isolated
from rvrt_cli.bench.machine import describe_machine, isa_note
from rvrt_cli.bench.matrix_product import MatrixProduct, NumpyProduct, measure_numpy_product, measure_product
from rvrt_cli.device import Device, use_device
from rvrt_cli.errors import OptionError, RvrtError
from rvrt_cli.ops import kernels
from rvrt_cli.options import ISA_NAMES, isa_limit, usable_cores

USES_OPENBLAS = "openblas" in np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
needs_openblas = pytest.mark.skipif(
    not USES_OPENBLAS or platform.machine() != "x86_64", reason="needs NumPy with OpenBLAS on x86-64"
)
needs_kernels = pytest.mark.skipif(kernels.library() is None, reason=str(kernels.problem()))


@pytest.mark.parametrize(("mindspore", "numpy", "best"), [(90.0, 140.0, 140.0), (175.0, 173.0, 175.0)])
def test_the_best_product_counts(mindspore: float, numpy: float, best: float) -> None:
    product = MatrixProduct(mindspore, NumpyProduct(numpy, threads=2, core="Haswell", held_to=None))
    facts = product.facts()
    assert facts["gemm_gflops"] == product.best == best
    assert (facts["gemm_mindspore_gflops"], facts["gemm_numpy_gflops"]) == (mindspore, numpy)


def test_on_an_accelerator_only_mindspore_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_product, "_mindspore_gflops", lambda device: 9.0)
    monkeypatch.setattr(matrix_product, "measure_numpy_product", lambda: pytest.fail("the host's product was measured"))
    product = measure_product(Device("gpu"))
    assert product.facts() == {"gemm_gflops": 9.0, "gemm_mindspore_gflops": 9.0}
    assert product.notes() == []


@needs_openblas
@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_numpy_has_all_cores_whatever_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    run, seen = subprocess.run, {}

    def spied(command: list[str], **options: object) -> object:
        # what the process's own library says: one thread more appears for every other core
        code = "import os, numpy; numpy.ones((512, 512)) @ numpy.ones((512, 512)); print(len(os.listdir('/proc/self/task')))"
        seen["threads"] = int(run([sys.executable, "-c", code], **options).stdout)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", spied)
    product = measure_numpy_product()
    assert product.threads == seen["threads"] == usable_cores()
    assert product.gflops > 0
    [note] = MatrixProduct(1.0, product).notes()
    assert "OMP_NUM_THREADS=1" in note
    assert "taskset" in note


@needs_openblas
@pytest.mark.parametrize(
    ("limit", "core", "held_to"), [("avx2", "Haswell", "AVX2"), ("portable", "Prescott", "portable")]
)
def test_numpy_is_held_to_the_instruction_set(
    monkeypatch: pytest.MonkeyPatch, limit: str, core: str, held_to: str
) -> None:
    monkeypatch.setenv("RVRT_ISA", limit)
    product = measure_numpy_product()
    assert (product.core, product.held_to) == (core, held_to)


def test_a_product_that_cannot_be_held_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_product, "openmp_threads", lambda: 2)
    product = MatrixProduct(1.0, NumpyProduct(2.0, threads=2, core=None, held_to=None))
    assert product.notes() == []
    monkeypatch.setenv("RVRT_ISA", "avx2")
    [note] = product.notes()
    assert "RVRT_ISA=avx2 does not limit NumPy's matrix product" in note


def test_a_failing_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_product, "_PRODUCT_EDGE", "many")
    with pytest.raises(RvrtError, match="invalid literal"):
        measure_numpy_product()


# --- RVRT_ISA


@pytest.fixture(scope="module")
def best_isa() -> str:
    """The instruction set of a process without a limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RVRT_ISA", raising=False)
        return run_isolated(kernels.instruction_set)


@pytest.mark.slow
@needs_kernels
@pytest.mark.parametrize("limit", ISA_NAMES)
def test_the_kernels_keep_the_limit_whatever_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, best_isa: str, limit: str
) -> None:
    monkeypatch.setenv("RVRT_ISA", limit)
    expected = min(best_isa, limit, key=ISA_NAMES.index)
    assert run_isolated(kernels.instruction_set) == expected
    code = f"import ctypes; k = ctypes.CDLL({str(kernels.library())!r}); print([k.rvrt_kernels_isa(i) for i in (2, 1, 0, -1, -2)])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    most = ISA_NAMES.index(expected)
    assert json.loads(done.stdout) == [min(2, most), min(1, most), 0, most, most]


@pytest.mark.slow
@needs_kernels
def test_asking_for_the_instruction_set_changes_nothing() -> None:
    code = (
        f"import ctypes; k = ctypes.CDLL({str(kernels.library())!r}); k.rvrt_kernels_isa(0); "
        "from rvrt_cli.ops.kernels import instruction_set; print(instruction_set())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "portable"


def test_an_unknown_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RVRT_ISA", "AVX2")
    with pytest.raises(OptionError, match="RVRT_ISA=AVX2: choose one of portable, avx2, avx512, or unset it"):
        use_device("cpu")
    monkeypatch.setenv("RVRT_ISA", "")
    assert isa_limit() is None


def test_a_limit_above_the_processor_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = {**describe_machine(use_device("cpu")), "kernels_isa": "AVX2"}
    monkeypatch.setenv("RVRT_ISA", "avx512")
    note = "RVRT_ISA=avx512: this processor has no AVX-512; the kernels' instruction set is AVX2"
    assert isa_note(machine) == note
    assert isa_note({**machine, "kernels_isa": "AVX-512"}) is None
    assert isa_note({**machine, "kernels_isa": None}) is None
    monkeypatch.setenv("RVRT_ISA", "portable")
    assert isa_note({**machine, "kernels_isa": "portable"}) is None
