"""The model, from its smallest part to the whole.

Read `config`, `rotary`, `attention` and `perceiver_ar`. `user_methods` adds what users call on a
model, such as `generate`. `blockwise_attention` makes training on CPUs faster and computes the
same.
"""
