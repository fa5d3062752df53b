"""Run ``FusedExtractor`` on a CPU, its Triton kernels in the interpreter.

    TRITON_INTERPRET=1 python kernel_interpreter.py inputs.pt outputs.pt

inputs.pt: model, half, and the network's inputs by name. outputs.pt: what it gives. A program of
its own, since a process has either Triton's compiler or its interpreter.
"""

from __future__ import annotations

import sys

import torch
from torch_networks import device_extractor

from aliked_ros.networks import fused

# an operation takes 0.1 ms in the interpreter, on few or many numbers
fused._PIXELS, fused._SLOTS, fused._ROWS = 4096, 64, 256

if __name__ == "__main__":
    given = torch.load(sys.argv[1])
    extractor = device_extractor(fused.FusedExtractor, given["model"], given["half"])
    with torch.inference_mode():
        torch.save(extractor(*given["inputs"].values()), sys.argv[2])
