"""Exponentials by numpy: the same numbers as MLX's, only where they were switched on, and never in a gradient."""

import threading

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models import activations

from dspy_toolkit_mlx.runners import attention
from dspy_toolkit_mlx.runners import cpu_kernels as host


@pytest.fixture(autouse=True)
def everything_on_the_host(monkeypatch):
    monkeypatch.setattr(host, "_SMALL", 0)
    monkeypatch.setattr(host._thread, "on", True, raising=False)


def close(ours, theirs):
    return np.allclose(np.array(ours), np.array(theirs), rtol=2e-5, atol=2e-6)


def both(function, *arguments):
    ours = function(*arguments)
    with host.off():
        return ours, function(*arguments)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 24), st.sampled_from([1.0, 30.0, 200.0]), st.integers(0, 99))
def test_swiglu(rows, width, spread, seed):
    gate, x = (mx.random.normal((2, rows, width), key=mx.random.key(seed + n)) * spread for n in range(2))
    previous = np.array(gate), np.array(x)
    assert close(host.swiglu(gate, x), activations.swiglu(gate, x))
    assert np.array_equal(np.array(gate), previous[0]), "inputs stay as they were"
    assert np.array_equal(np.array(x), previous[1])


def test_swiglu_of_views_of_one_array():
    fused = mx.random.normal((3, 5, 16))
    gate, x = mx.split(fused, 2, axis=-1)
    assert close(host.swiglu(gate, x), activations.swiglu(gate, x))


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 5),
    groups=st.integers(1, 3),
    share=st.integers(1, 3),
    tokens=st.integers(1, 9),
    columns=st.integers(1, 20),
    block=st.sampled_from([1, 50, 1 << 21]),
    masked=st.sampled_from(["no", "tail", "window"]),
    seed=st.integers(0, 99),
)
def test_parts_of_attention(batch, groups, share, tokens, columns, block, masked, seed):
    key = mx.random.split(mx.random.key(seed), 4)
    queries = mx.random.normal((batch, groups * share, tokens, 8), key=key[0]) * 3
    keys = mx.random.normal((batch, groups, columns, 8), key=key[1])
    values = mx.random.normal((batch, groups, columns, 8), key=key[2])
    mask = None
    if masked != "no":
        shape = (batch if masked == "tail" else 1, 1, tokens, columns)
        mask = mx.random.uniform(shape=shape, key=key[3]) > 0.3
    previous = host._BLOCK
    host._BLOCK = block
    try:
        ours, theirs = both(attention._partial, queries, keys, values, mask)
    finally:
        host._BLOCK = previous
    seen = np.array(theirs[2]) > 0  # where a line sees nothing its maximum means nothing
    assert close(np.array(ours[2]), np.array(theirs[2]))
    assert close(np.where(seen, ours[1], 0), np.where(seen, theirs[1], 0))
    assert close(ours[0], theirs[0])


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 30),
    prefix=st.integers(0, 30),
    kind=st.sampled_from([None, "causal", "booleans"]),
    block=st.sampled_from([1, 300, 1 << 21]),
)
def test_attention_of_one_sequence(tokens, prefix, kind, block):
    queries = mx.random.normal((1, 6, tokens, 8))
    keys, values = mx.random.normal((1, 2, prefix + tokens, 8)), mx.random.normal((1, 2, prefix + tokens, 8))
    mask = kind
    if kind == "booleans":
        mask = mx.tril(mx.ones((tokens, prefix + tokens), mx.bool_), k=prefix)
    previous, host._BLOCK = host._BLOCK, block
    try:
        ours = host.attention(queries, keys, values, 0.3, mask)
    finally:
        host._BLOCK = previous
    assert close(ours, mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask=mask))


def test_another_thread_and_another_type_are_left_to_mlx():
    array = mx.zeros((100, 100))
    result = []
    thread = threading.Thread(target=lambda: result.append(host.active(array, array.size)))
    thread.start()
    thread.join()
    assert result == [False]
    assert host.active(array, array.size)
    assert not host.active(array.astype(mx.float16), array.size)


def test_a_gradient_outside_the_engine_is_untouched(tiny):
    model = tiny("llama")
    assert attention.hook(model)

    def loss(weights):
        model.update(weights)
        return model(mx.array([[3, 4, 5, 6]])).square().mean()

    with host.off():
        gradients = mx.grad(loss)(model.trainable_parameters())
    inner = gradients["model"]["layers"][0]["mlp"]["gate_proj"]["weight"]
    assert mx.abs(inner).max().item() > 0


@pytest.mark.parametrize("pays", [True, False])
def test_the_engine_switches_it_on_where_it_pays(pays, monkeypatch):
    monkeypatch.setattr(host, "pays", lambda: pays)
    expected = pays and mx.default_device() == mx.Device(mx.cpu)
    assert host.enable() == expected == host.active(mx.zeros((100, 100)), 10_000)
