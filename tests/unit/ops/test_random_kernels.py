import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gam_kg.nn.dropout import dropout, rrelu
from gam_kg.ops import kernels
from gam_kg.ops.counter_rng import CounterRNG

triton = pytest.importorskip("triton", reason="Triton is not installed")
TESTS = Path(__file__).parents[2]
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_the_interpreted_kernels_give_the_values_and_gradients_of_torch():
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    # Triton reads the variable when it decorates a kernel, so that this takes a process of its own.
    subprocess.run(
        [sys.executable, "-c", "import kernel_cases; kernel_cases.check_random('cpu')"],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths},
        check=True,
    )


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("integer", ["i32", "i64"])
@pytest.mark.parametrize("is_rrelu", [False, True])
def test_the_kernel_compiles_for_a_gpu_and_rounds_as_torch_does(dtype, integer, is_rrelu, tmp_path, monkeypatch):
    from gam_kg.ops.random_kernels import scale_kernel

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    constants = {
        "threshold": -(2**31) + 5,
        "scale": 1 / 0.7,
        "least": 1 / 8,
        "span": 5 / 24,
        "is_rrelu": is_rrelu,
        "block_rows": 8,
        "block_columns": 256,
    }
    pointers = dict.fromkeys(("value", "signed", "out"), f"*{dtype}") | {"rows": f"*{integer}", "column_hashes": "*i32"}
    types = pointers | {"num_rows": "i32", "columns": "i32"} | dict.fromkeys(constants, "constexpr")
    source = triton.compiler.ASTSource(
        fn=scale_kernel, signature={name: types[name] for name in scale_kernel.arg_names}, constexprs=constants
    )
    target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
    ptx = triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]
    assert ".target sm_90" in ptx
    assert "fma" not in ptx


@pytest.mark.gpu
@no_gpu
def test_the_kernels_give_the_values_and_gradients_of_torch_on_a_gpu():
    import kernel_cases

    kernel_cases.check_random("cuda")


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("switch", ["0", "1"])
def test_dropout_on_a_gpu_has_the_numbers_of_the_cpu_with_and_without_kernels(switch, monkeypatch):
    monkeypatch.setenv(kernels.SWITCH, switch)
    kernels._random_kernels_on.cache_clear()
    x, key = torch.randn(500, 200), torch.arange(500)
    for function in (
        lambda x, rng: dropout(x, 0.3, rng, "a", training=True),
        lambda x, rng: rrelu(x, rng, "a", training=True),
    ):
        found = function(x.cuda(), CounterRNG(0, 1).rows(key.cuda(), "a")).cpu()
        assert torch.equal(found, function(x, CounterRNG(0, 1).rows(key, "a")))
    is_on = kernels.random_kernels(x.cuda()) is not None
    kernels._random_kernels_on.cache_clear()
    assert is_on == (switch == "1")


def test_torch_does_the_work_of_other_devices_and_dtypes():
    assert kernels.random_kernels(torch.ones(2, 2)) is None


def test_kernels_that_fail_are_replaced_with_a_warning(monkeypatch, caplog):
    def fails(device):
        raise RuntimeError("no C compiler")

    monkeypatch.delenv(kernels.SWITCH, raising=False)
    monkeypatch.setattr("gam_kg.ops.random_kernels.try_out", fails)
    kernels._random_kernels_on.cache_clear()
    device = torch.device("cuda", 0)
    assert kernels._random_kernels_on(device) is None
    assert kernels._random_kernels_on(device) is None
    kernels._random_kernels_on.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "warning: dropout runs without its kernel, which is slower on a GPU: no C compiler"
    ]


def test_the_switch_leaves_the_work_to_torch_without_a_warning(monkeypatch, caplog):
    monkeypatch.setenv(kernels.SWITCH, "0")
    kernels._random_kernels_on.cache_clear()
    assert kernels._random_kernels_on(torch.device("cuda", 0)) is None
    kernels._random_kernels_on.cache_clear()
    assert not caplog.records


def test_without_triton_torch_does_the_work():
    # Python refuses to import a module that is None.
    lines = (
        "import sys; sys.modules['triton'] = None",
        "import torch",
        "from gam_kg.nn import dropout",
        "from gam_kg.ops import kernels",
        "assert kernels._random_kernels_on(torch.device('cuda', 0)) is None",
        "assert 'gam_kg.ops.random_kernels' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=TESTS.parent, check=True)
