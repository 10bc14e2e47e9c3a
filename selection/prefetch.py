"""Ask for memory before it is needed.

Whoever follows the links of 10^6 nodes waits for memory: every neighbour is another line that is in no cache, and loops
over short rows leave the processor no room to look ahead by itself. The ids of the next neighbours are known, so their
rows can be on their way meanwhile: products with the matrix take half the time. Where single numbers are read, or long
rows, the processor is ahead by itself, and a hint gains nothing (benchmarks/NOTES.md).
"""

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

AHEAD = 8
"""How many links earlier a row is asked for; 4 to 16 do about as well."""

_LINE = 64  # bytes
_READ, _KEEP, _DATA = 0, 3, 1  # arguments of llvm.prefetch


@intrinsic
def _touch(typing_context, array, offset):
    """The line of memory that is `offset` bytes behind the beginning of an array; a hint, which changes nothing."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = cgutils.pointer_add(builder, data, arguments[1], cgutils.voidptr_t)
        flags = [ir.Constant(ir.IntType(32), value) for value in (_READ, _KEEP, _DATA)]
        kind = ir.FunctionType(ir.VoidType(), [address.type, *(flag.type for flag in flags)])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [address.type], kind)
        builder.call(prefetch, [address, *flags])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@numba.njit(nogil=True, cache=True)
def prefetch(array, row):
    """Ask for `array[row]`, C-contiguous."""
    for line in range(0, array.strides[0], _LINE):
        offset = row * array.strides[0] + line
        _touch(array, offset)  # pyright: ignore[reportCallIssue]  # Numba puts the context first
