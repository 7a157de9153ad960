"""The members of glibc's structures that emu reads or writes: what a layout table has.

Which file's debug information defines a structure completely: ld.so's for the linker's own, libc's for
`struct pthread`. No release has all of the members; `Layout.has` tells.
"""

from __future__ import annotations

LINK_MAP = """
    l_addr l_audit_any_plt l_auditing l_buckets l_chain l_contiguous l_direct_opencount l_entry l_faked l_file_id.dev l_file_id.ino l_flags
    l_flags_1 l_global l_gnu_bitmask l_gnu_bitmask_idxbits l_gnu_buckets l_gnu_chain_zero l_gnu_shift l_info l_init_called l_init_called_next l_initfini l_ld
    l_ld_readonly l_ldnum l_libname l_loader l_local_scope[] l_main_map l_map_end l_map_start l_name l_nbuckets l_need_tls_init l_next
    l_nodelete_active l_nodelete_pending l_ns l_nversions l_origin l_phdr l_phdr_allocated l_phnum l_prev l_real l_reldeps l_reldepsmax
    l_reloc_result l_relocated l_relro_addr l_relro_size l_removed l_scope l_scope_max l_searchlist l_searchlist.r_list
    l_searchlist.r_nlist l_serial l_symbolic_searchlist l_symbolic_searchlist.r_list l_symbolic_searchlist.r_nlist l_text_end l_tls_align
    l_tls_blocksize l_tls_dtor_count l_tls_firstbyte_offset l_tls_initimage l_tls_initimage_size l_tls_modid l_tls_offset l_type l_used
    l_versions l_versyms
""".split()
RTLD_GLOBAL = """
    _dl_init_static_tls _dl_initial_dtv _dl_load_adds _dl_load_lock _dl_load_tls_lock _dl_load_write_lock _dl_make_stack_executable_hook
    _dl_nns _dl_ns[] _dl_rtld_auditstate _dl_rtld_lock_recursive _dl_rtld_map _dl_rtld_unlock_recursive _dl_stack_cache _dl_stack_flags
    _dl_stack_prot_flags _dl_stack_used _dl_stack_user _dl_tls_dtv_gaps _dl_tls_dtv_slotinfo_list _dl_tls_generation
    _dl_tls_max_dtv_idx _dl_tls_static_align _dl_tls_static_nelem _dl_tls_static_optional _dl_tls_static_size _dl_tls_static_used
    _dl_wait_lookup_done
""".split()
RTLD_GLOBAL_RO = """
    _dl_audit _dl_auxv _dl_catch_error _dl_clktck _dl_close _dl_debug_fd _dl_debug_mask _dl_dso_sort_algo _dl_error_free _dl_find_object
    _dl_hwcap2 _dl_init_all_dirs _dl_initial_searchlist.r_list _dl_initial_searchlist.r_nlist _dl_lazy _dl_libc_freeres
    _dl_lookup_symbol_x _dl_mcount _dl_minsigstacksize _dl_naudit _dl_open _dl_pagesize _dl_sysinfo_dso _dl_sysinfo_map
    _dl_tls_get_addr_soft _dl_tls_static_align _dl_tls_static_size _dl_tls_static_surplus _dl_vdso_clock_getres_time64
    _dl_vdso_clock_gettime64 _dl_vdso_getcpu _dl_vdso_getrandom _dl_vdso_gettimeofday _dl_vdso_time
    _dl_x86_cpu_features.basic.family _dl_x86_cpu_features.basic.kind _dl_x86_cpu_features.basic.max_cpuid
    _dl_x86_cpu_features.basic.model _dl_x86_cpu_features.basic.stepping _dl_x86_cpu_features.cpuid
""".split()
PTHREAD = """
    guardsize header.pointer_guard header.stack_guard joinstate list robust_head robust_prev rseq_area rtld_catch specific[]
    specific_1stblock stack_mode stackblock stackblock_size start_routine tid user_stack
""".split()

LD_SO: dict[str, list[str]] = {
    "link_map": LINK_MAP,
    "rtld_global": RTLD_GLOBAL,
    "rtld_global_ro": RTLD_GLOBAL_RO,
    "link_namespaces": ["_ns_debug", "_ns_loaded", "_ns_main_searchlist", "_ns_nloaded", "libc_map"],
    "libname_list": ["name"],
    "r_debug_extended": ["r_next"],
    "tunable_t": "env_alias initialized name type.max type.min type.type_code val val.strval.len".split(),
}
"""The structures of ld.so's debug information."""
LIBC: dict[str, list[str]] = {"pthread": PTHREAD}
"""Those of libc's."""
