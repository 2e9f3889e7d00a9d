# SPDX-License-Identifier: Apache-2.0
"""The streaming network as a model for other runtimes: `rvrt export`.

The network's own code runs once on symbolic tensors, with a table of ops that write ONNX nodes in place of MindSpore's:
there is no second description of it.

- `graph_builder` collects nodes and constants, and knows sizes that are given only when the model runs.
- `symbolic_tensor` is a value of that graph that behaves like a MindSpore `Tensor`.
- `onnx_layers`, `onnx_sampling` and `onnx_attention` are the ops.
- `padded_network` is the network on a window that a scene may not fill.
- `window_trace` runs one window of the network, with its state as inputs and outputs.
- `graph_template` fills weights into the graph, and `onnx_messages` writes both as bytes.
- `mindspore_stand_in` is what the network's code imports for all this where MindSpore is not installed.
- `stage_program` takes the window down as calls of MindSpore's own stages instead; `mindir` writes them as MindIR.
- `export_network` writes the file.

`rvrt_cli.runtime` describes the models and runs them.
"""
