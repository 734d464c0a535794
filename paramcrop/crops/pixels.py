"""The Triton kernels of ``paramcrop.crops.kernels``: places, colours and sums of a block of view pixels.

A block of P view pixels is (P, 4): the four source pixels around each of them, row by row. Colours are float32 in
[0, 1]. ``b_`` ... ``x_`` are the strides of batch, channel, time, row and column.
"""

# Code that Triton compiles has no Python types.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def number_frames(index, s_t, dt, samples, n, frames, FLOOR: tl.constexpr, BLOCK: tl.constexpr):
    """Eq. 8: the times of Eq. 4 as whole frames, int32 (samples, n); NaN becomes 0."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < samples * n
    centre = _centre(i % n, n)
    time = _time(centre, tl.load(s_t + i // n, inside, 0.0), tl.load(dt + i // n, inside, 0.0), frames)
    time = tl.where(time == time, tl.minimum(tl.maximum(time, 0.0), frames - 1.0), 0.0)
    whole = tl.floor(time)
    if not FLOOR:  # halves go to the even neighbour, as in torch.round
        rest = time - whole
        odd = whole - 2 * tl.floor(whole / 2)
        whole += tl.where((rest > 0.5) | ((rest == 0.5) & (odd == 1.0)), 1.0, 0.0)
    tl.store(index + i, whole.to(tl.int32), inside)


@triton.jit
def _centre(i, n):
    """Normalised coordinate of pixel (or frame) i of n, with PyTorch's rounding."""
    return tl.div_rn((2 * i + 1).to(tl.float32), (0 * i + n).to(tl.float32)) - 1.0


@triton.jit
def _time(centre, s_t, dt, frames):
    """Eq. 4 along t, in source frames, not clamped."""
    return ((centre * s_t + dt + 1.0) * frames - 1.0) / 2


@triton.jit
def average_frames(
    means, index, video, b_, c_, t_, y_, x_, frames, height, width, order, order_b, factors, factors_b,
    FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean grey of a source frame after the operations that come before contrast -> (B, n, 3)."""
    n, b, which = tl.program_id(0), tl.program_id(1).to(tl.int64), FIRST + 2 * tl.program_id(2)
    order, factors = order + b * order_b, factors + b * factors_b
    place = b * tl.num_programs(0) + n
    if tl.load(factors + 1) != 1.0:
        frame = _beside(tl.load(index + place), which - 1, frames)
        before = 0  # number of operations before contrast
        for i in range(4):
            before += tl.where(tl.load(order + i) == 1, i, 0)
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(0, height * width, BLOCK):
            pixel = start + tl.arange(0, BLOCK)
            inside = pixel < height * width
            r, g, blue = _pixel(video + b * b_, frame, pixel // width, pixel % width, c_, t_, y_, x_, inside)
            r, g, blue = _jitter(r, g, blue, 0.0, order, factors, before)
            total += tl.where(inside, _grey(r, g, blue), 0.0)
        tl.store(means + place * 3 + which, tl.sum(total) / (height * width))


@triton.jit
def make_view(
    view, v_b, v_c, v_t, v_y, v_x, view_height, view_width,
    video, b_, c_, t_, y_, x_, frames, height, width, index, means,
    s_p, theta, dx, dy, flip, flip_b, order, order_b, factors, factors_b, s_t, dt, mean, std,
    ROTATE: tl.constexpr, AUGMENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of pixels of one view frame: Eq. 3 and 4, bilinear, normalised."""
    n, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < view_height * view_width
    row, column = pixel // view_width, pixel % view_width
    scale, angle = tl.load(s_p + b), tl.load(theta + b)
    c_x, c_y = _centre(column, view_width), _centre(row, view_height)
    x, y = _turn(c_x, c_y, scale, angle, tl.load(dx + b), tl.load(dy + b), ROTATE)
    left, right = _between(x, width)
    up, down = _between(y, height)
    corner = tl.arange(0, 4)[None, :]
    i_x, i_y = tl.minimum(left + corner % 2, width - 1), tl.minimum(up + corner // 2, height - 1)
    place = b * tl.num_programs(1) + n
    r, g, blue = _augmented(
        video + b * b_, tl.load(index + place), i_y, i_x, c_, t_, y_, x_, width, inside[:, None],
        flip + b * flip_b, order + b * order_b, factors + b * factors_b, means + place * 3 + 1, AUGMENT,
    )  # fmt: skip
    weight = _weight(right, corner % 2) * _weight(down, corner // 2)
    # NaN parameters must reach the loss, as in ``paramcrop.crops.resample``: in the first pixel of each frame.
    time = _time(_centre(n, tl.num_programs(1)), tl.load(s_t + b), tl.load(dt + b), frames)
    broken = tl.where(pixel == 0, 0 * (x + y + tl.where(time == time, 0.0, time)), 0.0)
    out = view + b * v_b + n * v_t + row * v_y + column * v_x
    tl.store(out, (tl.sum(r * weight, 1) + broken - mean) / std, inside)
    tl.store(out + v_c, (tl.sum(g * weight, 1) + broken - mean) / std, inside)
    tl.store(out + 2 * v_c, (tl.sum(blue * weight, 1) + broken - mean) / std, inside)


@triton.jit
def differentiate_view(
    sums, grad, g_b, g_c, g_t, g_y, g_x, view_height, view_width,
    video, b_, c_, t_, y_, x_, frames, height, width, index, means,
    s_p, theta, dx, dy, flip, flip_b, order, order_b, factors, factors_b, std,
    ROTATE: tl.constexpr, AUGMENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block's sums of <gradient, d view / d ...> -> (B, n, tiles, 8): the first two rows of Eq. 3, then t.

    The gradient of the loss and the colours enter only as their product at each corner.
    """
    n, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < view_height * view_width
    row, column = pixel // view_width, pixel % view_width
    scale, angle = tl.load(s_p + b), tl.load(theta + b)
    c_x, c_y = _centre(column, view_width), _centre(row, view_height)
    x, y = _turn(c_x, c_y, scale, angle, tl.load(dx + b), tl.load(dy + b), ROTATE)
    left, right = _between(x, width)
    up, down = _between(y, height)
    corner = tl.arange(0, 4)[None, :]
    i_x, i_y = tl.minimum(left + corner % 2, width - 1), tl.minimum(up + corner // 2, height - 1)
    of = grad + b * g_b + n * g_t + row * g_y + column * g_x
    of_r = (tl.load(of, inside, 0.0).to(tl.float32) / std)[:, None]
    of_g = (tl.load(of + g_c, inside, 0.0).to(tl.float32) / std)[:, None]
    of_b = (tl.load(of + 2 * g_c, inside, 0.0).to(tl.float32) / std)[:, None]
    place = b * tl.num_programs(1) + n
    own = tl.load(index + place)
    here, change = tl.zeros([BLOCK, 4], tl.float32), tl.zeros([BLOCK, 4], tl.float32)
    for which in range(3):  # the previous frame, the own frame, the next frame
        r, g, blue = _augmented(
            video + b * b_, _beside(own, which - 1, frames), i_y, i_x, c_, t_, y_, x_, width, inside[:, None],
            flip + b * flip_b, order + b * order_b, factors + b * factors_b, means + place * 3 + which, AUGMENT,
        )  # fmt: skip
        product = of_r * r + of_g * g + of_b * blue
        change += (which - 1) * product
        here = tl.where(which == 1, product, here)
    w_x, w_y = _weight(right, corner % 2), _weight(down, corner // 2)
    by_x = tl.sum(tl.where(corner % 2 == 1, w_y, -w_y) * here, 1) * _slope(x, width)
    by_y = tl.sum(tl.where(corner // 2 == 1, w_x, -w_x) * here, 1) * _slope(y, height)
    gap = tl.maximum(_beside(own, 1, frames) - _beside(own, -1, frames), 1)
    out = sums + (place * tl.num_programs(0) + tl.program_id(0)) * 8
    tl.store(out, tl.sum(by_x * c_x))
    tl.store(out + 1, tl.sum(by_x * c_y))
    tl.store(out + 2, tl.sum(by_x))
    tl.store(out + 3, tl.sum(by_y * c_x))
    tl.store(out + 4, tl.sum(by_y * c_y))
    tl.store(out + 5, tl.sum(by_y))
    tl.store(out + 6, tl.sum(tl.sum(change * w_x * w_y, 1)) / gap)


@triton.jit
def to_parameters(
    grads, sums, s_p, s_t, theta, dt, samples, n, tiles, frames, height, width,
    ROTATE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sums of ``differentiate_view`` -> (6, B): gradients of s_p, s_t, theta, dx, dy, dt (Eq. 3)."""
    b = tl.program_id(0).to(tl.int64)
    none = tl.zeros([BLOCK], tl.float32)
    size, turn, right, down, later, longer = none, none, none, none, none, none
    length, start_t = tl.load(s_t + b), tl.load(dt + b)
    for start in range(0, n * tiles, BLOCK):
        part = start + tl.arange(0, BLOCK)
        inside = part < n * tiles
        at = sums + (b * n * tiles + part) * 8
        size += tl.load(at, inside, 0.0) + tl.load(at + 4, inside, 0.0)
        turn += tl.load(at + 3, inside, 0.0) - tl.load(at + 1, inside, 0.0)
        right += tl.load(at + 2, inside, 0.0)
        down += tl.load(at + 5, inside, 0.0)
        centre = _centre(part // tiles, n)
        time = _time(centre, length, start_t, frames)
        within = (time > 0.0) & (time < frames - 1.0)  # no derivative at the border and beyond
        in_time = tl.where(within, tl.load(at + 6, inside, 0.0), 0.0) * (frames / 2)
        later += in_time
        longer += in_time * centre
    d_size, d_turn = tl.sum(size), 0.0
    if ROTATE:
        scale, angle = tl.load(s_p + b), tl.load(theta + b)
        d_turn = tl.sum(turn) * tl.cos(angle) - scale * tl.sin(angle) * d_size
        d_size *= tl.cos(angle)
    tl.store(grads + b, d_size)
    tl.store(grads + samples + b, tl.sum(longer))
    tl.store(grads + 2 * samples + b, d_turn)
    tl.store(grads + 3 * samples + b, tl.sum(right))
    tl.store(grads + 4 * samples + b, tl.sum(down))
    tl.store(grads + 5 * samples + b, tl.sum(later))


@triton.jit
def _turn(c_x, c_y, scale, angle, dx, dy, ROTATE: tl.constexpr):
    """Eq. 3 and 4 in the image plane: normalised x and y in the source."""
    x, y = scale * c_x, scale * c_y
    if ROTATE:
        cosine, sine = tl.cos(angle), tl.sin(angle)
        x, y = x * cosine - sine * c_y, sine * c_x + y * cosine
    return x + dx, y + dy


@triton.jit
def _between(x, n):
    """Normalised coordinate -> the pixel before it and the weight of the next; borders repeat, NaN is the middle."""
    pixel = (tl.where(x == x, x, 0.0) * n + (n - 1.0)) / 2
    pixel = tl.minimum(tl.maximum(pixel, 0.0), n - 1.0)
    whole = tl.floor(pixel)
    return whole.to(tl.int32)[:, None], (pixel - whole)[:, None]


@triton.jit
def _slope(x, n):
    """d pixel / d x; 0 at the border and beyond."""
    pixel = (tl.where(x == x, x, 0.0) * n + (n - 1.0)) / 2
    return tl.where((pixel > 0.0) & (pixel < n - 1.0), n / 2, 0.0)


@triton.jit
def _weight(share, second):
    return tl.where(second == 1, share, 1.0 - share)


@triton.jit
def _beside(frame, by, frames):
    """Frame number ``frame`` + ``by``, clamped to the clip."""
    return tl.minimum(tl.maximum(frame + by, 0), frames - 1)


@triton.jit
def _augmented(
    video, frame, y, x, c_, t_, y_, x_, width, inside, flip, order, factors, mean, AUGMENT: tl.constexpr
):  # fmt: skip
    """Colours of pixels (y, x) of a frame of the flipped, jittered clip."""
    if AUGMENT:
        x = tl.where(tl.load(flip) != 0, width - 1 - x, x)
    r, g, b = _pixel(video, frame, y, x, c_, t_, y_, x_, inside)
    if AUGMENT:
        r, g, b = _jitter(r, g, b, tl.load(mean), order, factors, 4)
    return r, g, b


@triton.jit
def _pixel(video, frame, y, x, c_, t_, y_, x_, inside):
    """Stored bytes -> red, green, blue."""
    at = video + frame.to(tl.int64) * t_ + y * y_ + x * x_
    r = tl.load(at, inside, 0).to(tl.float32) * (1 / 255)
    g = tl.load(at + c_, inside, 0).to(tl.float32) * (1 / 255)
    b = tl.load(at + 2 * c_, inside, 0).to(tl.float32) * (1 / 255)
    return r, g, b


@triton.jit
def _jitter(r, g, b, mean, order, factors, count):
    """The first ``count`` operations in the sample's order, as in ``paramcrop.crops.augment.color_jitter``."""
    for place in range(count):
        number = tl.load(order + place)
        factor = tl.load(factors + number)
        if (number == 0) & (factor != 1.0):
            r, g, b = _unit(r * factor), _unit(g * factor), _unit(b * factor)
        if (number == 1) & (factor != 1.0):
            r, g, b = _mix(mean, r, factor), _mix(mean, g, factor), _mix(mean, b, factor)
        if (number == 2) & (factor != 1.0):
            grey = _grey(r, g, b)
            r, g, b = _mix(grey, r, factor), _mix(grey, g, factor), _mix(grey, b, factor)
        if (number == 3) & (factor != 0.0):
            r, g, b = _shift_hue(r, g, b, factor)
    return r, g, b


@triton.jit
def _unit(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def _mix(base, x, factor):
    """As torch.lerp, which starts from the nearer end; clamped to [0, 1]."""
    change = x - base
    return _unit(tl.where(factor < 0.5, base + factor * change, x - change * (1.0 - factor)))


@triton.jit
def _grey(r, g, b):
    return 0.2989 * r + 0.587 * g + 0.114 * b


@triton.jit
def _shift_hue(r, g, b, turns):
    """As in ``paramcrop.crops.augment.hue``."""
    value = tl.maximum(tl.maximum(r, g), b)
    chroma = value - tl.minimum(tl.minimum(r, g), b)
    span = tl.maximum(chroma, 1e-12)
    of_green = 2.0 + (b - r) / span
    sextant = tl.where(value == r, (g - b) / span, tl.where(value == g, of_green, 4.0 + (r - g) / span))
    hue = sextant + 6.0 * turns
    return value - chroma * _ramp(hue + 5.0), value - chroma * _ramp(hue + 3.0), value - chroma * _ramp(hue + 1.0)


@triton.jit
def _ramp(k):
    k = k - 6.0 * tl.floor(k / 6.0)
    return _unit(tl.minimum(k, 4.0 - k))
