"""Peaks are those of the data sheets. Unknown devices have none."""

import re

import pytest

from tbtrainer.observers.peak_flops import PEAKS, peak_flops


@pytest.mark.parametrize(
    "name, dtype, teraflops",
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA H100 NVL", "float16", 835.5),
        ("NVIDIA GH200 480GB", "bfloat16", 989.4),
        ("NVIDIA GB200", "bfloat16", 2500),
        ("NVIDIA H200", "tf32", 494.7),
        ("NVIDIA B200", "bfloat16", 2250),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-80GB", "float32", 19.5),
        ("NVIDIA A10G", "bfloat16", 70),
        ("NVIDIA L40S", "bfloat16", 362),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2),
        ("Tesla T4", "float16", 65),
        ("AMD Instinct MI300X", "bfloat16", 1307.4),
        ("AMD Instinct MI250X", "bfloat16", 191.5),
        ("Tesla V100-PCIE-16GB", "float16", 112),
    ],
)
def test_the_peak_of_a_known_device(name: str, dtype: str, teraflops: float) -> None:
    assert peak_flops(name, dtype) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H1000",
        "Some GPU",
        "",
        "NVIDIA A1000 Laptop GPU",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
    ],
)
def test_an_unknown_device_has_no_peak(name: str) -> None:
    assert peak_flops(name, "bfloat16") is None


def test_a_part_of_a_device_has_no_peak() -> None:
    assert peak_flops("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16") is None


def test_fp8_has_no_peak() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "fp8") is None


def test_a_dtype_that_a_device_lacks_has_no_peak() -> None:
    assert peak_flops("Tesla V100-SXM2-16GB", "tf32") is None


def test_every_peak_names_its_source_and_year() -> None:
    assert [peak.pattern for peak in PEAKS if not re.search(r"\w, 20\d\d", peak.source)] == []
