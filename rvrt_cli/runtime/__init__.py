# SPDX-License-Identifier: Apache-2.0
"""Exported networks in ONNX Runtime, where MindSpore is not needed and never imported.

- `exported_model` describes an exported model: the metadata that its file carries.
- `providers` selects the device among the execution providers of the installed ONNX Runtime.
- `onnx_network` runs a model as the network that the engine calls.
"""

from rvrt_cli.runtime.exported_model import ExportedModel
from rvrt_cli.runtime.onnx_network import OnnxNetwork, check_onnx_runtime

__all__ = ["ExportedModel", "OnnxNetwork", "check_onnx_runtime"]
