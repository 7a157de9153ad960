"""Other systems to run programs of: what a sysroot must hold, where the named ones are kept, and how one is
made.

`inside` follows paths as the guest will, `inspect` judges a sysroot, `store` keeps them by name in the
user's cache, and `unpack`, `image` and `debian` make new ones: from an archive, a container image, a
distribution's packages. Nothing of a sysroot is ever executed here. May import `emu.core` and `emu.elf`.
"""
