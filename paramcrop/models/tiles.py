"""The Triton kernels of ``paramcrop.models.fused``: batch normalisation and max-pooling, channels last.

A tensor is (rows, channels), with adjacent channels and a stride of ``..._row`` between rows. Channels are passed as
``groups`` of VEC, so that the compiler knows that VEC of them can be read together. Sums are float32.
"""

# Code that Triton compiles has no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_of(start, rows, channels, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, block):
    """Row numbers (M, 1), channel numbers (1, C), and which of them exist."""
    row = (start + tl.arange(0, BLOCK_M))[:, None]
    channel = block * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    return row, channel, (row < rows) & (channel < channels)


@triton.jit
def place_of(row, stride, channel):
    return row.to(tl.int64) * stride + channel


@triton.jit
def moments(
    parts, x, x_row, rows, groups, per, VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    """Mean, and sum of squared differences from it, of each ``per`` rows -> (parts, 2, channels)."""
    part, block, channels = tl.program_id(0), tl.program_id(1), groups * VEC
    first = part * per
    column = block * BLOCK_C + tl.arange(0, BLOCK_C)
    there = column < channels
    shift = tl.load(x + place_of(first, x_row * VEC, column), there, 0.0).to(tl.float32)  # avoids cancellation
    total, squares = tl.zeros([BLOCK_M, BLOCK_C], tl.float32), tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    last = tl.minimum(first + per, rows)
    for start in range(0, per, BLOCK_M):
        row, channel, inside = tile_of(first + start, last, channels, BLOCK_M, BLOCK_C, block)
        value = tl.load(x + place_of(row, x_row * VEC, channel), inside, 0.0).to(tl.float32)
        difference = tl.where(inside, value - shift[None, :], 0.0)
        total += difference
        squares += difference * difference
    count = (last - first).to(tl.float32)
    sum_1, sum_2 = tl.sum(total, 0), tl.sum(squares, 0)
    out = parts + part * 2 * channels + column
    tl.store(out, shift + sum_1 / count, there)
    tl.store(out + channels, sum_2 - sum_1 * sum_1 / count, there)


@triton.jit
def combine_moments(
    out, parts, count, per, rows, channels, running_mean, running_var, batches, momentum, eps,
    FINAL: tl.constexpr, TRACK: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """``moments`` of parts -> moments of all ``rows``, (2, channels).

    FINAL: the second row is 1 / standard deviation instead of the sum. TRACK: also update the running averages.
    """
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = column < channels
    shift = tl.load(parts + column, there, 0.0)
    sum_1, sum_2 = tl.zeros([BLOCK_S, BLOCK_C], tl.float32), tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    for start in range(0, count, BLOCK_S):
        part = start + tl.arange(0, BLOCK_S)[:, None]
        inside = (part < count) & there[None, :]
        at = parts + part * 2 * channels + column[None, :]
        size = tl.minimum(per, rows - part * per).to(tl.float32)
        difference = tl.where(inside, tl.load(at, inside, 0.0) - shift[None, :], 0.0)
        sum_1 += size * difference
        sum_2 += size * difference * difference + tl.load(at + channels, inside, 0.0)
    total = tl.sum(sum_1, 0)
    mean = shift + total / rows
    square = tl.sum(sum_2, 0) - total * total / rows
    tl.store(out + column, mean, there)
    if FINAL:
        tl.store(out + channels + column, 1 / tl.sqrt(square / rows + eps), there)
    else:
        tl.store(out + channels + column, square, there)
    if TRACK:
        old = tl.load(running_mean + column, there, 0.0)
        tl.store(running_mean + column, old + momentum * (mean - old), there)
        old = tl.load(running_var + column, there, 0.0)
        tl.store(running_var + column, old + momentum * (square / (rows - 1) - old), there)
        if tl.program_id(0) == 0:
            tl.store(batches, tl.load(batches) + 1)


@triton.jit
def normalise(
    y, y_row, x, x_row, rest, rest_row, rows, groups, mean, deviation, weight, bias, eps,
    RELU: tl.constexpr, REST: tl.constexpr, EVAL: tl.constexpr,
    VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = ReLU((x - mean) x deviation x weight + bias + rest), with ReLU and rest if asked.

    ``deviation`` holds 1 / standard deviation; EVAL: the variance.
    """
    channels = groups * VEC
    row, channel, inside = tile_of(tl.program_id(0) * BLOCK_M, rows, channels, BLOCK_M, BLOCK_C, tl.program_id(1))
    there = channel < channels
    value = tl.load(x + place_of(row, x_row * VEC, channel), inside, 0.0).to(tl.float32)
    scale = tl.load(deviation + channel, there, 0.0)
    if EVAL:
        scale = 1 / tl.sqrt(scale + eps)
    scale *= tl.load(weight + channel, there, 0.0)
    value = (value - tl.load(mean + channel, there, 0.0)) * scale + tl.load(bias + channel, there, 0.0)
    if REST:
        value += tl.load(rest + place_of(row, rest_row * VEC, channel), inside, 0.0).to(tl.float32)
    if RELU:
        value = tl.where(value < 0.0, 0.0, value)  # NaN stays NaN
    tl.store(y + place_of(row, y_row * VEC, channel), value, inside)


@triton.jit
def _behind_relu(
    grad, grad_row, y, y_row, centred, row, channel, inside, scale, bias,
    RELU: tl.constexpr, REST: tl.constexpr, VEC: tl.constexpr,
):  # fmt: skip
    """The gradient that passes the ReLU. Its sign is recomputed from x, or read from y if something was added."""
    value = tl.load(grad + place_of(row, grad_row * VEC, channel), inside, 0.0).to(tl.float32)
    if RELU:
        if REST:
            passed = tl.load(y + place_of(row, y_row * VEC, channel), inside, 0.0).to(tl.float32)
        else:
            passed = centred * scale + bias
        value = tl.where(passed <= 0.0, 0.0, value)
    return value


@triton.jit
def gradient_sums(
    parts, grad, grad_row, x, x_row, y, y_row, rows, groups, per, mean, deviation, weight, bias,
    RELU: tl.constexpr, REST: tl.constexpr, VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient, and of the gradient times x - mean, of each ``per`` rows -> (parts, 2, channels)."""
    part, block, channels = tl.program_id(0), tl.program_id(1), groups * VEC
    first = part * per
    column = block * BLOCK_C + tl.arange(0, BLOCK_C)
    there = column < channels
    centre = tl.load(mean + column, there, 0.0)[None, :]
    scale = (tl.load(deviation + column, there, 0.0) * tl.load(weight + column, there, 0.0))[None, :]
    offset = tl.load(bias + column, there, 0.0)[None, :]
    sum_1, sum_2 = tl.zeros([BLOCK_M, BLOCK_C], tl.float32), tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    last = tl.minimum(first + per, rows)
    for start in range(0, per, BLOCK_M):
        row, channel, inside = tile_of(first + start, last, channels, BLOCK_M, BLOCK_C, block)
        centred = tl.load(x + place_of(row, x_row * VEC, channel), inside, 0.0).to(tl.float32) - centre
        value = _behind_relu(
            grad, grad_row, y, y_row, centred, row, channel, inside, scale, offset, RELU, REST, VEC
        )  # fmt: skip
        sum_1 += value
        sum_2 += value * centred
    out = parts + part * 2 * channels + column
    tl.store(out, tl.sum(sum_1, 0), there)
    tl.store(out + channels, tl.sum(sum_2, 0), there)


@triton.jit
def combine_sums(out, parts, count, channels, deviation, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr):
    """``gradient_sums`` of parts -> (3, channels): the sums over all parts, and the gradient of the weight."""
    column = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = column < channels
    sum_1, sum_2 = tl.zeros([BLOCK_S, BLOCK_C], tl.float32), tl.zeros([BLOCK_S, BLOCK_C], tl.float32)
    for start in range(0, count, BLOCK_S):
        part = start + tl.arange(0, BLOCK_S)[:, None]
        inside = (part < count) & there[None, :]
        at = parts + part * 2 * channels + column[None, :]
        sum_1 += tl.load(at, inside, 0.0)
        sum_2 += tl.load(at + channels, inside, 0.0)
    total = tl.sum(sum_2, 0)
    tl.store(out + column, tl.sum(sum_1, 0), there)
    tl.store(out + channels + column, total, there)
    tl.store(out + 2 * channels + column, total * tl.load(deviation + column, there, 0.0), there)


@triton.jit
def differentiate(
    dx, dx_row, d_rest, d_rest_row, grad, grad_row, x, x_row, y, y_row, rows, groups, total,
    sums, mean, deviation, weight, bias,
    RELU: tl.constexpr, REST: tl.constexpr, VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of x and of the tensor that was added; ``total`` rows and ``sums`` are over all ranks."""
    channels = groups * VEC
    row, channel, inside = tile_of(tl.program_id(0) * BLOCK_M, rows, channels, BLOCK_M, BLOCK_C, tl.program_id(1))
    there = channel < channels
    centred = tl.load(x + place_of(row, x_row * VEC, channel), inside, 0.0).to(tl.float32)
    centred -= tl.load(mean + channel, there, 0.0)
    inverse = tl.load(deviation + channel, there, 0.0)
    scale = inverse * tl.load(weight + channel, there, 0.0)
    value = _behind_relu(
        grad, grad_row, y, y_row, centred, row, channel, inside, scale, tl.load(bias + channel, there, 0.0),
        RELU, REST, VEC,
    )  # fmt: skip
    if REST:
        tl.store(d_rest + place_of(row, d_rest_row * VEC, channel), value, inside)
    slope = inverse * inverse * tl.load(sums + channels + channel, there, 0.0) / total
    value = scale * (value - tl.load(sums + channel, there, 0.0) / total - centred * slope)
    tl.store(dx + place_of(row, dx_row * VEC, channel), value, inside)


@triton.jit
def _place(i, frames, height, width):
    """Number of a position -> clip, frame, row and column."""
    return i // (frames * height * width), i // (height * width) % frames, i // width % height, i % width


@triton.jit
def pool(
    y, which, x, positions, groups, frames, height, width, out_frames, out_height, out_width,
    K_T: tl.constexpr, K_Y: tl.constexpr, K_X: tl.constexpr, S_T: tl.constexpr, S_Y: tl.constexpr, S_X: tl.constexpr,
    P_T: tl.constexpr, P_Y: tl.constexpr, P_X: tl.constexpr,
    VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Maxima over windows of (K_T, K_Y, K_X), and the place of each in its window: the first, as in torch."""
    channels = groups * VEC
    out, channel, inside = tile_of(tl.program_id(0) * BLOCK_M, positions, channels, BLOCK_M, BLOCK_C, tl.program_id(1))
    clip, t, row, column = _place(out, out_frames, out_height, out_width)
    greatest = tl.full([BLOCK_M, BLOCK_C], -float("inf"), tl.float32)
    taken = tl.full([BLOCK_M, BLOCK_C], 255, tl.int32)
    for k_t in range(K_T):
        from_t = t * S_T + k_t - P_T
        for k_y in tl.static_range(K_Y):
            from_y = row * S_Y + k_y - P_Y
            for k_x in tl.static_range(K_X):
                from_x = column * S_X + k_x - P_X
                valid = inside & (from_t >= 0) & (from_t < frames) & (from_y >= 0) & (from_y < height)
                valid = valid & (from_x >= 0) & (from_x < width)
                at = ((clip * frames + from_t) * height + from_y) * width + from_x
                value = tl.load(x + place_of(at, channels, channel), valid, -float("inf")).to(tl.float32)
                better = (value > greatest) | (value != value)
                greatest = tl.where(better, value, greatest)
                taken = tl.where(better, (k_t * K_Y + k_y) * K_X + k_x, taken)
    tl.store(y + place_of(out, channels, channel), greatest, inside)
    tl.store(which + place_of(out, channels, channel), taken.to(tl.uint8), inside)


@triton.jit
def differentiate_pool(
    dx, grad, which, positions, groups, frames, height, width, out_frames, out_height, out_width,
    K_T: tl.constexpr, K_Y: tl.constexpr, K_X: tl.constexpr, S_T: tl.constexpr, S_Y: tl.constexpr, S_X: tl.constexpr,
    P_T: tl.constexpr, P_Y: tl.constexpr, P_X: tl.constexpr,
    VEC: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradient of each position: the sum over the windows whose maximum it was."""
    channels = groups * VEC
    at, channel, inside = tile_of(tl.program_id(0) * BLOCK_M, positions, channels, BLOCK_M, BLOCK_C, tl.program_id(1))
    clip, t, row, column = _place(at, frames, height, width)
    total = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for j_t in range((K_T + S_T - 1) // S_T):  # the last window that contains it, and those before
        to_t = (t + P_T) // S_T - j_t
        k_t = t + P_T - to_t * S_T
        for j_y in tl.static_range((K_Y + S_Y - 1) // S_Y):
            to_y = (row + P_Y) // S_Y - j_y
            k_y = row + P_Y - to_y * S_Y
            for j_x in tl.static_range((K_X + S_X - 1) // S_X):
                to_x = (column + P_X) // S_X - j_x
                k_x = column + P_X - to_x * S_X
                valid = inside & (to_t >= 0) & (to_t < out_frames) & (to_y >= 0) & (to_y < out_height)
                valid = valid & (to_x >= 0) & (to_x < out_width) & (k_t < K_T) & (k_y < K_Y) & (k_x < K_X)
                out = place_of(((clip * out_frames + to_t) * out_height + to_y) * out_width + to_x, channels, channel)
                mine = tl.load(which + out, valid, 255).to(tl.int32) == (k_t * K_Y + k_y) * K_X + k_x
                total += tl.where(mine, tl.load(grad + out, valid, 0.0).to(tl.float32), 0.0)
    tl.store(dx + place_of(at, channels, channel), total, inside)
