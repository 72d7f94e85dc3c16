"""Prints what a Mach-O program for arm64 takes from each library that it names: `LIBRARY SYMBOL`, a line each."""

import struct
import sys

SYMTAB, LOAD_DYLIB = 0x2, 0xC
UNDEFINED, EXTERNAL, TYPE = 0x0, 0x1, 0x0E

data = open(sys.argv[1], "rb").read()
magic, cpu, _, _, commands, _, _, _ = struct.unpack_from("<8I", data)
if (magic, cpu) != (0xFEEDFACF, 0x0100000C):
    sys.exit("not a Mach-O program for arm64")

libraries, symtab, at = [], None, 32
for _ in range(commands):
    command, size = struct.unpack_from("<2I", data, at)
    if command == LOAD_DYLIB:
        name = at + struct.unpack_from("<I", data, at + 8)[0]
        path = data[name : data.index(b"\0", name)].decode()
        libraries.append(path.rsplit("/", 1)[-1])
    elif command == SYMTAB:
        symtab = struct.unpack_from("<4I", data, at + 8)
    at += size

symbols, count, strings, _ = symtab
for index in range(count):
    name, kind, _, description, _ = struct.unpack_from("<IBBHQ", data, symbols + 16 * index)
    if kind & EXTERNAL and kind & TYPE == UNDEFINED:
        start = strings + name
        text = data[start : data.index(b"\0", start)].decode()
        # The number of the library is in the upper byte, from one on.
        library = libraries[(description >> 8) - 1]
        print(library, text.removeprefix("_"))
