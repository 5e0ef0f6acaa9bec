"""The model, from its smallest part to the whole.

Read `config`, `rotary`, `attention` and `perceiver_ar`; `blockwise_attention` makes training
on CPUs faster, and computes the same.
"""
