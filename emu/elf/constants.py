"""Numbers of the ELF format as x86-64 GNU/Linux uses them, under the names that the field gives them.

Plain integers: they are compared in hot loops and imported at every start-up.
Source: gABI chapters 4 and 5; x86-64 psABI 4.4 (relocation types), 5.2 (dynamic tags); Linux ABI extensions
(GNU properties); elf.h.
"""

from __future__ import annotations

from typing import Final

# e_ident
ELFMAG: Final = b"\x7fELF"
EI_CLASS: Final = 4
EI_DATA: Final = 5
EI_VERSION: Final = 6
EI_OSABI: Final = 7
EI_ABIVERSION: Final = 8
EI_PAD: Final = 9
EI_NIDENT: Final = 16
ELFCLASS32: Final = 1
ELFCLASS64: Final = 2
ELFDATA2LSB: Final = 1
ELFDATA2MSB: Final = 2
ELFOSABI_SYSV: Final = 0
ELFOSABI_GNU: Final = 3
EV_CURRENT: Final = 1

# e_type, e_machine
ET_NONE: Final = 0
ET_REL: Final = 1
ET_EXEC: Final = 2
ET_DYN: Final = 3
ET_CORE: Final = 4
EM_386: Final = 3
EM_X86_64: Final = 62

# Sizes of the fixed records, in bytes
EHDR_SIZE: Final = 64
PHDR_SIZE: Final = 56
SHDR_SIZE: Final = 64
SYM_SIZE: Final = 24
RELA_SIZE: Final = 24
RELR_SIZE: Final = 8
DYN_SIZE: Final = 16
PAGE_SIZE: Final = 0x1000

# p_type, p_flags
PT_NULL: Final = 0
PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_INTERP: Final = 3
PT_NOTE: Final = 4
PT_SHLIB: Final = 5
PT_PHDR: Final = 6
PT_TLS: Final = 7
PT_GNU_EH_FRAME: Final = 0x6474E550
PT_GNU_STACK: Final = 0x6474E551
PT_GNU_RELRO: Final = 0x6474E552
PT_GNU_PROPERTY: Final = 0x6474E553
PF_X: Final = 1
PF_W: Final = 2
PF_R: Final = 4

# d_tag
DT_NULL: Final = 0
DT_NEEDED: Final = 1
DT_PLTRELSZ: Final = 2
DT_PLTGOT: Final = 3
DT_HASH: Final = 4
DT_STRTAB: Final = 5
DT_SYMTAB: Final = 6
DT_RELA: Final = 7
DT_RELASZ: Final = 8
DT_RELAENT: Final = 9
DT_STRSZ: Final = 10
DT_SYMENT: Final = 11
DT_INIT: Final = 12
DT_FINI: Final = 13
DT_SONAME: Final = 14
DT_RPATH: Final = 15
DT_SYMBOLIC: Final = 16
DT_REL: Final = 17
DT_RELSZ: Final = 18
DT_RELENT: Final = 19
DT_PLTREL: Final = 20
DT_DEBUG: Final = 21
DT_TEXTREL: Final = 22
DT_JMPREL: Final = 23
DT_BIND_NOW: Final = 24
DT_INIT_ARRAY: Final = 25
DT_FINI_ARRAY: Final = 26
DT_INIT_ARRAYSZ: Final = 27
DT_FINI_ARRAYSZ: Final = 28
DT_RUNPATH: Final = 29
DT_FLAGS: Final = 30
DT_PREINIT_ARRAY: Final = 32
DT_PREINIT_ARRAYSZ: Final = 33
DT_SYMTAB_SHNDX: Final = 34
DT_RELRSZ: Final = 35
DT_RELR: Final = 36
DT_RELRENT: Final = 37
DT_LOPROC: Final = 0x70000000
DT_GNU_HASH: Final = 0x6FFFFEF5
DT_TLSDESC_PLT: Final = 0x6FFFFEF6
DT_TLSDESC_GOT: Final = 0x6FFFFEF7
DT_DEPAUDIT: Final = 0x6FFFFEFB
DT_AUDIT: Final = 0x6FFFFEFC
DT_VERSYM: Final = 0x6FFFFFF0
DT_RELACOUNT: Final = 0x6FFFFFF9
DT_FLAGS_1: Final = 0x6FFFFFFB
DT_VERDEF: Final = 0x6FFFFFFC
DT_VERDEFNUM: Final = 0x6FFFFFFD
DT_VERNEED: Final = 0x6FFFFFFE
DT_VERNEEDNUM: Final = 0x6FFFFFFF
DT_AUXILIARY: Final = 0x7FFFFFFD
DT_FILTER: Final = 0x7FFFFFFF

# DT_FLAGS, DT_FLAGS_1
DF_ORIGIN: Final = 0x1
DF_SYMBOLIC: Final = 0x2
DF_TEXTREL: Final = 0x4
DF_BIND_NOW: Final = 0x8
DF_STATIC_TLS: Final = 0x10
DF_1_NOW: Final = 0x1
DF_1_GLOBAL: Final = 0x2
DF_1_GROUP: Final = 0x4
DF_1_NODELETE: Final = 0x8
DF_1_LOADFLTR: Final = 0x10
DF_1_INITFIRST: Final = 0x20
DF_1_NOOPEN: Final = 0x40
DF_1_ORIGIN: Final = 0x80
DF_1_DIRECT: Final = 0x100
DF_1_TRANS: Final = 0x200
DF_1_INTERPOSE: Final = 0x400
DF_1_NODEFLIB: Final = 0x800
DF_1_NODUMP: Final = 0x1000
DF_1_CONFALT: Final = 0x2000
DF_1_ENDFILTEE: Final = 0x4000
DF_1_DISPRELDNE: Final = 0x8000
DF_1_DISPRELPND: Final = 0x10000
DF_1_NODIRECT: Final = 0x20000
DF_1_IGNMULDEF: Final = 0x40000
DF_1_NOKSYMS: Final = 0x80000
DF_1_NOHDR: Final = 0x100000
DF_1_EDITED: Final = 0x200000
DF_1_NORELOC: Final = 0x400000
DF_1_SYMINTPOSE: Final = 0x800000
DF_1_GLOBAUDIT: Final = 0x1000000
DF_1_SINGLETON: Final = 0x2000000
DF_1_STUB: Final = 0x4000000
DF_1_PIE: Final = 0x8000000

# st_shndx, and the parts of st_info and st_other
SHN_UNDEF: Final = 0
SHN_LORESERVE: Final = 0xFF00
SHN_ABS: Final = 0xFFF1
SHN_COMMON: Final = 0xFFF2
SHN_XINDEX: Final = 0xFFFF
STB_LOCAL: Final = 0
STB_GLOBAL: Final = 1
STB_WEAK: Final = 2
STB_GNU_UNIQUE: Final = 10
STT_NOTYPE: Final = 0
STT_OBJECT: Final = 1
STT_FUNC: Final = 2
STT_SECTION: Final = 3
STT_FILE: Final = 4
STT_COMMON: Final = 5
STT_TLS: Final = 6
STT_GNU_IFUNC: Final = 10
STV_DEFAULT: Final = 0
STV_INTERNAL: Final = 1
STV_HIDDEN: Final = 2
STV_PROTECTED: Final = 3

# Symbol versions
VER_DEF_CURRENT: Final = 1
VER_NEED_CURRENT: Final = 1
VER_FLG_BASE: Final = 1
VER_FLG_WEAK: Final = 2
VER_NDX_LOCAL: Final = 0
VER_NDX_GLOBAL: Final = 1
VERSYM_HIDDEN: Final = 0x8000
VERSYM_VERSION: Final = 0x7FFF

# Relocation types
R_X86_64_NONE: Final = 0
R_X86_64_64: Final = 1
R_X86_64_PC32: Final = 2
R_X86_64_GOT32: Final = 3
R_X86_64_PLT32: Final = 4
R_X86_64_COPY: Final = 5
R_X86_64_GLOB_DAT: Final = 6
R_X86_64_JUMP_SLOT: Final = 7
R_X86_64_RELATIVE: Final = 8
R_X86_64_GOTPCREL: Final = 9
R_X86_64_32: Final = 10
R_X86_64_32S: Final = 11
R_X86_64_16: Final = 12
R_X86_64_PC16: Final = 13
R_X86_64_8: Final = 14
R_X86_64_PC8: Final = 15
R_X86_64_DTPMOD64: Final = 16
R_X86_64_DTPOFF64: Final = 17
R_X86_64_TPOFF64: Final = 18
R_X86_64_TLSGD: Final = 19
R_X86_64_TLSLD: Final = 20
R_X86_64_DTPOFF32: Final = 21
R_X86_64_GOTTPOFF: Final = 22
R_X86_64_TPOFF32: Final = 23
R_X86_64_PC64: Final = 24
R_X86_64_GOTOFF64: Final = 25
R_X86_64_GOTPC32: Final = 26
R_X86_64_GOT64: Final = 27
R_X86_64_GOTPCREL64: Final = 28
R_X86_64_GOTPC64: Final = 29
R_X86_64_GOTPLT64: Final = 30
R_X86_64_PLTOFF64: Final = 31
R_X86_64_SIZE32: Final = 32
R_X86_64_SIZE64: Final = 33
R_X86_64_GOTPC32_TLSDESC: Final = 34
R_X86_64_TLSDESC_CALL: Final = 35
R_X86_64_TLSDESC: Final = 36
R_X86_64_IRELATIVE: Final = 37
R_X86_64_RELATIVE64: Final = 38
R_X86_64_GOTPCRELX: Final = 41
R_X86_64_REX_GOTPCRELX: Final = 42

R_X86_64_NAMES: Final[dict[int, str]] = {
    value: name for name, value in tuple(globals().items()) if name.startswith("R_X86_64_")
}
"""Relocation type -> its psABI name."""

# Notes of the owner "GNU", and the properties in NT_GNU_PROPERTY_TYPE_0
NT_GNU_ABI_TAG: Final = 1
NT_GNU_HWCAP: Final = 2
NT_GNU_BUILD_ID: Final = 3
NT_GNU_GOLD_VERSION: Final = 4
NT_GNU_PROPERTY_TYPE_0: Final = 5
ELF_NOTE_OS_LINUX: Final = 0
GNU_PROPERTY_STACK_SIZE: Final = 1
GNU_PROPERTY_NO_COPY_ON_PROTECTED: Final = 2
GNU_PROPERTY_1_NEEDED: Final = 0xB0008000
GNU_PROPERTY_1_NEEDED_INDIRECT_EXTERN_ACCESS: Final = 1
GNU_PROPERTY_X86_FEATURE_1_AND: Final = 0xC0000002
GNU_PROPERTY_X86_ISA_1_NEEDED: Final = 0xC0008002
GNU_PROPERTY_X86_ISA_1_USED: Final = 0xC0010002
GNU_PROPERTY_X86_FEATURE_1_IBT: Final = 1
GNU_PROPERTY_X86_FEATURE_1_SHSTK: Final = 2
GNU_PROPERTY_X86_ISA_1_BASELINE: Final = 1
GNU_PROPERTY_X86_ISA_1_V2: Final = 2
GNU_PROPERTY_X86_ISA_1_V3: Final = 4
GNU_PROPERTY_X86_ISA_1_V4: Final = 8
