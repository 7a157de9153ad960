# ruff: noqa: E501 - the expected lines stand as they are
"""What `emu why` says of each run of the fixtures why-*: for each moment the reasons (object, code, count, chain) and the changes."""

from __future__ import annotations

LIBRARIES = {
    "why-bindings:relocated": "libp.so",
    "why-bindings:lazily": "libp.so",
    "why-bindings:unbound": "libp.so",
    "why-bindings:two-users": "libp.so",
    "why-bindings:one-binding-for-all": "libp.so",
    "why-bindings:users-gone": "libp.so",
    "why-bindings:start-up": "libp.so",
    "why-bindings:start-up-unbound": "libp.so",
    "why-bindings:dlsym-default": "libp.so",
    "why-bindings:dlsym-handle": "libp.so",
    "why-calls:close-too-few": "liba.so",
    "why-calls:closed": "liba.so",
    "why-calls:opened-by-another": "liba.so",
    "why-calls:file": "libn.so",
    "why-calls:call": "liba.so",
    "why-calls:call-later": "liba.so",
    "why-calls:needed": "liba.so",
    "why-calls:needed-by-two": "liba.so",
    "why-calls:needed-no-more": "liba.so",
    "why-calls:never-opened": "libn.so",
    "why-generations:left-open": "libplugin.so",
    "why-generations:closed": "libplugin.so",
    "why-hot-reload:stale": "live-1000.so",
    "why-hot-reload:worker": "live-1000.so",
    "why-hot-reload:plain": "live-1000.so",
    "why-logger:pointer": "libpointer.so",
    "why-logger:string": "libstring.so",
    "why-plugin-unique:unique": "libunique.so",
    "why-plugin-unique:plain": "libplain.so",
    "why-rust-cdylib:boxed": "libboxed.so",
    "why-rust-cdylib:plain": "libplain.so",
    "why-startup:linked": "libb.so",
    "why-startup:opened": "libb.so",
    "why-threads:waits": "libplugin.so",
    "why-threads:two": "libplugin.so",
    "why-threads:vanishes": "libplugin.so",
    "why-threads:main": "libplugin.so",
    "why-threads:main-too": "libplugin.so",
    "why-threads:joined": "libplugin.so",
    "why-threads:untouched": "libplugin.so",
    "why-threads:late": "libplugin.so",
    "why-threads:collected": "libplugin.so",
}

EXPECTED = {
    "why-bindings:relocated": [
        "1 dlclose libp.so:collect stayed [libu.so open-count 1 bound libp.so] -> [close libu.so]",
        "1 program-end : stayed [libu.so open-count 1 bound libp.so] -> [close libu.so]",
    ],
    "why-bindings:lazily": [
        "1 dlclose libp.so:collect stayed [libv.so open-count 1 bound libp.so] -> [close libv.so]",
        "1 program-end : stayed [libv.so open-count 1 bound libp.so] -> [close libv.so]",
    ],
    "why-bindings:unbound": [
        "1 dlclose libp.so:collect went [] -> []",
    ],
    "why-bindings:two-users": [
        "1 dlclose libp.so:collect stayed [libu.so open-count 1 bound libp.so, libv.so open-count 1 bound libp.so] -> [close libu.so, close libv.so]",
        "1 other-dlclose libu.so:collect stayed [libv.so open-count 1 bound libp.so] -> [close libv.so]",
        "1 program-end : stayed [libv.so open-count 1 bound libp.so] -> [close libv.so]",
    ],
    "why-bindings:one-binding-for-all": [
        "1 dlclose libp.so:collect stayed [libu.so open-count 1 bound libp.so, libx.so open-count 1 needed libu.so bound libp.so, liby.so open-count 1 needed libu.so bound libp.so] -> [bind-elsewhere libu.so]",
        "1 program-end : stayed [libu.so open-count 1 bound libp.so, libx.so open-count 1 needed libu.so bound libp.so, liby.so open-count 1 needed libu.so bound libp.so] -> [bind-elsewhere libu.so]",
    ],
    "why-bindings:users-gone": [
        "1 dlclose libp.so:collect stayed [libu.so open-count 1 bound libp.so] -> [close libu.so]",
        "1 other-dlclose libu.so:collect went [] -> []",
    ],
    "why-bindings:start-up": [
        "1 dlclose libp.so:nodelete stayed [libp.so open-count 1, libp.so nodelete-reference 1] -> [bind-elsewhere libp.so]",
        "1 program-end : stayed [libp.so open-count 1, libp.so nodelete-reference 1] -> [bind-elsewhere libp.so]",
    ],
    "why-bindings:start-up-unbound": [
        "1 dlclose libp.so:collect went [] -> []",
    ],
    "why-bindings:dlsym-default": [
        "1 dlclose libp.so:nodelete stayed [libp.so open-count 1, libp.so nodelete-reference 1] -> [bind-elsewhere libp.so]",
        "1 program-end : stayed [libp.so open-count 1, libp.so nodelete-reference 1] -> [bind-elsewhere libp.so]",
    ],
    "why-bindings:dlsym-handle": [
        "1 dlclose libp.so:collect went [] -> []",
    ],
    "why-calls:close-too-few": [
        "1 dlclose liba.so:referenced stayed [liba.so open-count 1] -> [close liba.so]",
        "1 program-end : stayed [liba.so open-count 1] -> [close liba.so]",
    ],
    "why-calls:closed": [
        "1 dlclose liba.so:referenced stayed [liba.so open-count 1] -> [close liba.so]",
        "1 dlclose liba.so:collect went [] -> []",
    ],
    "why-calls:opened-by-another": [
        "1 dlclose liba.so:referenced stayed [liba.so open-count 1] -> [close liba.so]",
        "1 other-dlclose libt.so:collect stayed [liba.so open-count 1] -> [close liba.so]",
        "1 program-end : stayed [liba.so open-count 1] -> [close liba.so]",
    ],
    "why-calls:file": [
        "1 dlclose libn.so:nodelete stayed [libn.so open-count 1, libn.so nodelete-file 1] -> [no-nodelete-file libn.so]",
        "1 program-end : stayed [libn.so open-count 1, libn.so nodelete-file 1] -> [no-nodelete-file libn.so]",
    ],
    "why-calls:call": [
        "1 dlclose liba.so:nodelete stayed [liba.so open-count 1, liba.so nodelete-open 1] -> [no-nodelete-flag liba.so]",
        "1 program-end : stayed [liba.so open-count 1, liba.so nodelete-open 1] -> [no-nodelete-flag liba.so]",
    ],
    "why-calls:call-later": [
        "1 dlclose liba.so:nodelete stayed [liba.so open-count 2, liba.so nodelete-open 1] -> [close liba.so, no-nodelete-flag liba.so]",
        "1 dlclose liba.so:nodelete stayed [liba.so open-count 2, liba.so nodelete-open 1] -> [no-nodelete-flag liba.so]",
        "1 program-end : stayed [liba.so open-count 2, liba.so nodelete-open 1] -> [no-nodelete-flag liba.so]",
    ],
    "why-calls:needed": [
        "1 dlclose liba.so:collect stayed [libr.so open-count 1 needed libm.so needed liba.so] -> [close libr.so]",
        "1 program-end : stayed [libr.so open-count 1 needed libm.so needed liba.so] -> [close libr.so]",
    ],
    "why-calls:needed-by-two": [
        "1 dlclose liba.so:collect stayed [libr.so open-count 1 needed libm.so needed liba.so, libs.so open-count 1 needed liba.so, libs.so nodelete-file 1 needed liba.so] -> [close libr.so, close libs.so, no-nodelete-file libs.so]",
        "1 program-end : stayed [libr.so open-count 1 needed libm.so needed liba.so, libs.so open-count 1 needed liba.so, libs.so nodelete-file 1 needed liba.so] -> [close libr.so, no-nodelete-file libs.so]",
    ],
    "why-calls:needed-no-more": [
        "1 dlclose liba.so:collect stayed [libr.so open-count 1 needed libm.so needed liba.so] -> [close libr.so]",
        "1 other-dlclose libr.so:collect went [] -> []",
    ],
    "why-calls:never-opened": [
        "1 program-end : stayed [libn.so open-count 1, libn.so nodelete-file 1] -> [close libn.so, no-nodelete-file libn.so]",
    ],
    "why-generations:left-open": [
        "1 dlclose libplugin.so:collect went [] -> []",
        "2 dlclose libplugin.so:collect went [] -> []",
        "3 program-end : stayed [libplugin.so open-count 1] -> [close libplugin.so]",
    ],
    "why-generations:closed": [
        "1 dlclose libplugin.so:collect went [] -> []",
        "2 dlclose libplugin.so:collect went [] -> []",
        "3 dlclose libplugin.so:collect went [] -> []",
    ],
    "why-hot-reload:stale": [
        "1 dlclose live-1000.so:collect stayed [live-1000.so tls-destructors 1] -> [touch-elsewhere 1000]",
        "1 dlclose live-1000.so:collect stayed [live-1000.so tls-destructors 1] -> [touch-elsewhere 1000]",
        "1 program-end : stayed [live-1000.so never-collected 0] -> [collect live-1000.so]",
    ],
    "why-hot-reload:worker": [
        "1 dlclose live-1000.so:collect went [] -> []",
        "2 dlclose live-1000.so:collect stayed [live-1000.so tls-destructors 1] -> [touch-elsewhere 1000]",
        "2 program-end : stayed [live-1000.so never-collected 0] -> [collect live-1000.so]",
    ],
    "why-hot-reload:plain": [
        "1 dlclose live-1000.so:collect went [] -> []",
        "2 dlclose live-1000.so:collect went [] -> []",
    ],
    "why-logger:pointer": [
        "1 dlclose libpointer.so:collect went [] -> []",
    ],
    "why-logger:string": [
        "1 dlclose libstring.so:collect stayed [libstring.so tls-destructors 1] -> [touch-elsewhere 1000]",
        "1 program-end : stayed [libstring.so never-collected 0] -> [collect libstring.so]",
    ],
    "why-plugin-unique:unique": [
        "1 dlclose libunique.so:nodelete stayed [libunique.so open-count 1, libunique.so nodelete-unique 2] -> [no-unique libunique.so]",
        "1 dlclose libunique.so:nodelete stayed [libunique.so open-count 2, libunique.so nodelete-unique 2] -> [no-unique libunique.so]",
        "1 program-end : stayed [libunique.so open-count 2, libunique.so nodelete-unique 2] -> [no-unique libunique.so]",
    ],
    "why-plugin-unique:plain": [
        "1 dlclose libplain.so:collect went [] -> []",
        "2 dlclose libplain.so:collect went [] -> []",
    ],
    "why-rust-cdylib:boxed": [
        "1 dlclose libboxed.so:collect stayed [libboxed.so tls-destructors 1] -> [touch-elsewhere 1000]",
        "1 dlclose libboxed.so:collect stayed [libboxed.so tls-destructors 1] -> [touch-elsewhere 1000]",
        "1 program-end : stayed [libboxed.so never-collected 0] -> [collect libboxed.so]",
    ],
    "why-rust-cdylib:plain": [
        "1 dlclose libplain.so:collect went [] -> []",
        "2 dlclose libplain.so:collect went [] -> []",
    ],
    "why-startup:linked": [
        "1 dlclose libb.so:start-up object stayed [libb.so start-up 1] -> [not-at-start-up libb.so]",
        "1 program-end : stayed [libb.so start-up 1] -> [not-at-start-up libb.so]",
    ],
    "why-startup:opened": [
        "1 dlclose libb.so:collect went [] -> []",
    ],
    "why-threads:waits": [
        "1 dlclose libplugin.so:collect stayed [libplugin.so tls-destructors 2] -> [end-thread 1001]",
        "1 program-end : stayed [libplugin.so tls-destructors 2] -> [end-thread 1001]",
    ],
    "why-threads:two": [
        "1 dlclose libplugin.so:collect stayed [libplugin.so tls-destructors 4] -> [end-thread 1001, end-thread 1002]",
        "1 program-end : stayed [libplugin.so tls-destructors 4] -> [end-thread 1001, end-thread 1002]",
    ],
    "why-threads:vanishes": [
        "1 dlclose libplugin.so:collect stayed [libplugin.so tls-destructors 2] -> [run-destructors 1001]",
        "1 program-end : stayed [libplugin.so tls-destructors 2] -> [run-destructors 1001]",
    ],
    "why-threads:main": [
        "1 dlclose libplugin.so:collect stayed [libplugin.so tls-destructors 2] -> [touch-elsewhere 1000]",
        "1 program-end : stayed [libplugin.so never-collected 0] -> [collect libplugin.so]",
    ],
    "why-threads:main-too": [
        "1 dlclose libplugin.so:collect stayed [libplugin.so tls-destructors 4] -> [end-thread 1001, touch-elsewhere 1000]",
        "1 program-end : stayed [libplugin.so tls-destructors 2] -> [end-thread 1001]",
    ],
    "why-threads:joined": [
        "1 dlclose libplugin.so:collect went [] -> []",
    ],
    "why-threads:untouched": [
        "1 dlclose libplugin.so:collect went [] -> []",
    ],
    "why-threads:late": [
        "1 dlclose libplugin.so:collect stayed [libplugin.so tls-destructors 2] -> [end-thread 1001]",
        "1 program-end : stayed [libplugin.so never-collected 0] -> [collect libplugin.so]",
    ],
    "why-threads:collected": [
        "1 dlclose libplugin.so:collect stayed [libplugin.so tls-destructors 2] -> [end-thread 1001]",
        "1 other-dlclose libother.so:collect went [] -> []",
    ],
}
