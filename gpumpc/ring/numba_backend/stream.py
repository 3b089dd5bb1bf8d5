"""AES-128 in counter mode with the processor's own AES instructions, joined with what the stream is needed for.

The same bytes as `prg.expand`: round keys by FIPS 197, counter blocks by NIST SP 800-38A section 6.5, the counter a 128-bit
number, big end first. No table is looked up, so no time depends on a key. Half a kilobyte at a time goes through a
buffer in the first-level cache: masks are added where they are made, without the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpumpc.ring.numba_backend.compiled import Bytes, OutWords, Words, compiled, has_feature, index, word

HAS_AES = has_feature("aes")
# Two blocks in one instruction where the processor can.
_BLOCKS = 2 if has_feature("vaes") and has_feature("avx2") else 1
_ROUNDS = 10
_IN_FLIGHT = 8  # states at a time, so that none waits for the one before
_GROUP_BLOCKS = _BLOCKS * _IN_FLIGHT
_BUFFER_BLOCKS = 64  # between making and using

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_STATE, _KEY, _QUARTERS = ir.VectorType(_I64, 2 * _BLOCKS), ir.VectorType(_I64, 2), ir.VectorType(_I32, 4)


def _instruction(builder: Any, name: str, form: Any, *arguments: Any) -> Any:
    function_type = ir.FunctionType(form, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), list(arguments))


@intrinsic  # type: ignore[untyped-decorator]  # numba publishes no types
def _round_keys(typing_context: Any, key: Any, target: Any) -> Any:
    """16 key bytes at one address -> 11 round keys at another, each `_BLOCKS` times."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not HAS_AES:  # nothing calls it then, but it must compile
            return context.get_dummy_value()
        b = builder
        current = b.bitcast(b.load(b.inttoptr(arguments[0], _KEY.as_pointer()), align=1), _QUARTERS)
        zeros = ir.Constant(_QUARTERS, [0] * 4)
        for number in range(_ROUNDS + 1):
            if number:
                constant = ir.Constant(ir.IntType(8), (1, 2, 4, 8, 16, 32, 64, 128, 0x1B, 0x36)[number - 1])
                helped = _instruction(b, "llvm.x86.aesni.aeskeygenassist", _KEY, b.bitcast(current, _KEY), constant)
                words = current
                for _ in range(3):  # word i becomes the sum of words 0 .. i
                    words = b.shuffle_vector(words, zeros, ir.Constant(_QUARTERS, [4, 0, 1, 2]))
                    current = b.xor(current, words)
                last = ir.Constant(_QUARTERS, [3] * 4)
                current = b.xor(current, b.shuffle_vector(b.bitcast(helped, _QUARTERS), zeros, last))
            for copy in range(_BLOCKS):
                place = ir.Constant(_I64, 16 * (_BLOCKS * number + copy))
                b.store(current, b.inttoptr(b.add(arguments[1], place), _QUARTERS.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]  # numba publishes no types
def _group(typing_context: Any, keys: Any, high: Any, low: Any, target: Any) -> Any:
    """`_GROUP_BLOCKS` blocks of the stream from the counter 2^64 high + low on; `low` does not wrap within them."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if not HAS_AES:  # nothing calls it then, but it must compile
            return context.get_dummy_value()
        b = builder
        keys, high, low, target = arguments
        first = ir.Constant(_STATE, ir.Undefined)
        for place in range(2 * _BLOCKS):
            counter = b.add(low, ir.Constant(_I64, place // 2)) if place % 2 else high
            first = b.insert_element(first, counter, ir.Constant(_I32, place))

        def key(number: int) -> Any:
            address = b.add(keys, ir.Constant(_I64, 16 * _BLOCKS * number))
            return b.load(b.inttoptr(address, _STATE.as_pointer()), align=8)

        suffix = ".256" if _BLOCKS == 2 else ""
        steps = [ir.Constant(_STATE, [0, _BLOCKS * i] * _BLOCKS) for i in range(_IN_FLIGHT)]
        swap = f"llvm.bswap.v{2 * _BLOCKS}i64"
        states = [_instruction(b, swap, _STATE, b.add(first, step)) for step in steps]
        whitening = key(0)
        states = [b.xor(state, whitening) for state in states]
        for number in range(1, _ROUNDS + 1):
            name = "llvm.x86.aesni.aesenclast" if number == _ROUNDS else "llvm.x86.aesni.aesenc"
            round_key = key(number)
            states = [_instruction(b, name + suffix, _STATE, state, round_key) for state in states]
        for i, state in enumerate(states):
            address = b.add(target, ir.Constant(_I64, 16 * _BLOCKS * i))
            b.store(state, b.inttoptr(address, _STATE.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


@compiled(Bytes, OutWords)
def _expand_key(key, keys):  # type: ignore[no-untyped-def]  # typed by its signature
    _round_keys(key.ctypes.data, keys.ctypes.data)


@compiled(Words, word, word, index, index, Words, word, OutWords)
def _words(keys, high, low, size, sign, x, keep, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """out = x + sign * stream & keep, one stream word of `size` bytes an element; x is not read where sign is 0."""
    raw, widened = np.empty(2 * _BUFFER_BLOCKS, np.uint64), np.empty(16 * _BUFFER_BLOCKS, np.uint64)
    by_1, by_2, by_4 = raw.view(np.uint8), raw.view(np.uint16), raw.view(np.uint32)
    count = 16 * _BUFFER_BLOCKS // size
    stream = raw if size == 8 else widened
    for start in range(0, out.size, count):
        for block in range(0, _BUFFER_BLOCKS, _GROUP_BLOCKS):
            _group(keys.ctypes.data, high, low + np.uint64(block), raw.ctypes.data + 16 * block)
        low += np.uint64(_BUFFER_BLOCKS)
        if size == 4:
            for i in range(count):
                widened[i] = by_4[i]
        elif size == 2:
            for i in range(count):
                widened[i] = by_2[i]
        elif size == 1:
            for i in range(count):
                widened[i] = by_1[i]
        left = min(count, out.size - start)
        if sign == 0:
            for i in range(left):
                out[start + i] = stream[i] & keep
        elif sign == 1:
            for i in range(left):
                out[start + i] = (x[start + i] + stream[i]) & keep
        else:
            for i in range(left):
                out[start + i] = (x[start + i] - stream[i]) & keep


@compiled(Words, word, word, index, Words, OutWords)
def _lanes(keys, high, low, add, x, out):  # type: ignore[no-untyped-def]  # typed by its signature
    """out = x ^ stream where `add` is 1, else the stream."""
    raw = np.empty(2 * _BUFFER_BLOCKS, np.uint64)
    for start in range(0, out.size, raw.size):
        for block in range(0, _BUFFER_BLOCKS, _GROUP_BLOCKS):
            _group(keys.ctypes.data, high, low + np.uint64(block), raw.ctypes.data + 16 * block)
        low += np.uint64(_BUFFER_BLOCKS)
        left = min(raw.size, out.size - start)
        if add == 1:
            for i in range(left):
                out[start + i] = x[start + i] ^ raw[i]
        else:
            for i in range(left):
                out[start + i] = raw[i]


class Stream:
    """The stream of one 32-byte key: AES-128 under its first half, counted from its second."""

    def __init__(self, key: bytes) -> None:
        self._keys = np.empty(2 * _BLOCKS * (_ROUNDS + 1), dtype=np.uint64)
        _expand_key(np.frombuffer(key[:16], dtype=np.uint8), self._keys)
        self._high, self._low = (int.from_bytes(key[at : at + 8], "big") for at in (16, 24))

    def reaches(self, n_bytes: int) -> bool:
        """Whether so many bytes leave the counter's upper half alone: all but one key in 2^28 do, whatever is asked."""
        return self._low + n_bytes // 16 + _BUFFER_BLOCKS < 1 << 64

    def words(self, out: npt.NDArray[np.uint64], size: int, keep: int) -> None:
        """Fill with stream words of `size` bytes & keep."""
        _words(self._keys, self._high, self._low, size, 0, out, keep, out)

    def added(self, x: npt.NDArray[np.uint64], sign: int, out: npt.NDArray[np.uint64], size: int, keep: int) -> None:
        """(x + sign * stream) & keep."""
        _words(self._keys, self._high, self._low, size, sign, x, keep, out)

    def lanes(self, out: npt.NDArray[np.uint64]) -> None:
        """Fill with the stream."""
        _lanes(self._keys, self._high, self._low, 0, out, out)

    def lanes_added(self, x: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:
        """x ^ stream."""
        _lanes(self._keys, self._high, self._low, 1, x, out)
