"""The most floating-point operations per second that devices can do, by name and dtype.

Products of dense matrices, without sparsity, summed in float32, from the makers' data sheets. Many
data sheets print the number with sparsity, which is twice as large. A device that is not listed has
no model FLOPs utilisation: a guess would be a wrong number.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """One kind of device.

    Attributes:
        pattern: Regular expression that is searched in `torch.cuda.get_device_name()`.
        half: With bfloat16 or float16 factors, in TFLOP/s.
        tf32: With TensorFloat-32 factors, in TFLOP/s; `None` if the device does not have them.
        single: With float32 factors, in TFLOP/s.
        source: The data sheet.
    """

    pattern: str
    half: float
    tf32: float | None
    single: float
    source: str


# The first match counts, so a longer name is listed before a shorter one.
PEAKS = (
    Peak(r"\bGB300\b", 2500, 1250, 80, "NVIDIA GB300 NVL72 data sheet, 2025"),
    Peak(r"\bB300\b", 2250, 1125, 75, "NVIDIA DGX B300 data sheet, 2025"),
    Peak(r"\bGB200\b", 2500, 1250, 80, "NVIDIA GB200 NVL72 data sheet, 2024"),
    Peak(r"\bB200\b", 2250, 1125, 75, "NVIDIA DGX B200 data sheet, 2024"),
    Peak(r"\bH200 NVL\b", 835.5, 418, 60, "NVIDIA H200 data sheet, 2024"),
    Peak(r"\bH200\b", 989.4, 494.7, 67, "NVIDIA H200 data sheet, 2023"),
    Peak(r"\bH100 NVL\b", 835.5, 418, 60, "NVIDIA H100 data sheet, 2023"),
    Peak(r"\bH100 PCIe\b", 756, 378, 51, "NVIDIA H100 data sheet, 2022"),
    Peak(r"\b(GH200|H100|H800)\b", 989.4, 494.7, 67, "NVIDIA H100 data sheet, 2022"),
    Peak(r"\bH20\b", 148, 74, 44, "NVIDIA H20 data sheet, 2023"),
    Peak(r"\bA(100|800)\b", 312, 156, 19.5, "NVIDIA A100 data sheet, 2020"),
    Peak(r"\bA10G\b", 70, 35, 35, "NVIDIA A10G product brief, 2021"),
    Peak(r"\bA10\b", 125, 62.5, 31.2, "NVIDIA A10 data sheet, 2021"),
    Peak(r"\bA30\b", 165, 82, 10.3, "NVIDIA A30 data sheet, 2021"),
    Peak(r"\bA40\b", 149.7, 74.8, 37.4, "NVIDIA A40 data sheet, 2020"),
    Peak(r"\bL40S\b", 362, 183, 91.6, "NVIDIA L40S data sheet, 2023"),
    Peak(r"\bL40\b", 181, 90.5, 90.5, "NVIDIA L40 data sheet, 2022"),
    Peak(r"\bL4\b", 121, 60, 30.3, "NVIDIA L4 data sheet, 2023"),
    Peak(r"\bRTX 5090$", 209.5, 104.8, 104.8, "NVIDIA RTX Blackwell white paper, 2025"),
    Peak(r"\bRTX 4090$", 165.2, 82.6, 82.6, "NVIDIA Ada white paper, 2022"),
    Peak(r"\bRTX 3090$", 71, 35.6, 35.6, "NVIDIA Ampere GA102 white paper, 2020"),
    Peak(r"\bV100S?-PCIE\b", 112, None, 14, "NVIDIA V100 data sheet, 2018"),
    Peak(r"\bV100-SXM", 125, None, 15.7, "NVIDIA V100 data sheet, 2018"),
    Peak(r"\bT4\b", 65, None, 8.1, "NVIDIA T4 data sheet, 2018"),
    Peak(r"\bMI355X\b", 2516.6, None, 157.3, "AMD MI355X data sheet, 2025"),
    Peak(r"\bMI3(00|25)X\b", 1307.4, 653.7, 163.4, "AMD MI300X and MI325X data sheets, 2023, 2024"),
    # PyTorch sees each of the two dies as a device.
    Peak(r"\bMI250X\b", 191.5, None, 47.9, "AMD MI250X data sheet, 2021, halved"),
)

# A part of a device, as NVIDIA's multi-instance mode makes them, has another peak.
_PART_OF_A_DEVICE = re.compile(r"\bMIG\b")


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Returns the most FLOP/s of a device, or `None` if they are not known.

    Args:
        device_name: As `torch.cuda.get_device_name()` returns it.
        dtype: The factors of matrix products: `"bfloat16"`, `"float16"`, `"tf32"` or `"float32"`.

    Example:
        >>> peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") / 1e12
        989.4
    """
    if _PART_OF_A_DEVICE.search(device_name):
        return None
    for peak in PEAKS:
        if re.search(peak.pattern, device_name):
            by_dtype = {
                "bfloat16": peak.half,
                "float16": peak.half,
                "tf32": peak.tf32,
                "float32": peak.single,
            }
            teraflops = by_dtype.get(dtype)
            return None if teraflops is None else teraflops * 1e12
    return None
