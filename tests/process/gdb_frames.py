"""For gdb's Python: print the frames of the stopped program as JSON, without what is not on the stack (tail
calls) and what is before main.
"""

import json

import gdb  # type: ignore[import-untyped]

frames = []
frame = gdb.newest_frame()
while frame is not None:
    if frame.type() != gdb.TAILCALL_FRAME:
        place = frame.find_sal()
        file = place.symtab.filename.rpartition("/")[2] if place.symtab else ""
        signal = frame.type() == gdb.SIGTRAMP_FRAME
        inlined = frame.type() == gdb.INLINE_FRAME
        in_ld_so = "ld-linux" in (gdb.solib_name(frame.pc()) or "")
        frames.append((frame.name() or "", file, place.line, signal, inlined, frame.pc(), in_ld_so))
    if frame.name() == "main":
        break
    try:
        frame = frame.older()
    except gdb.error:
        break
print("FRAMES " + json.dumps(frames))
