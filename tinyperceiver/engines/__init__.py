"""Engines that decode: tokens in, logits of the next token out, one step at a time.

`decoder` says what every engine can be asked, and `choice` takes one for a model's device. On
CPUs this is `onnx_engine`, which runs the graph of `onnx_graph`; on GPUs it is `torch_engine`.
`onnx_export` writes the graph as a file.
"""
