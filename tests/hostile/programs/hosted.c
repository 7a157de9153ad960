/* Private functions of ld.so, each called with arguments that it cannot work with: it returns, or there is a signal. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>

static const char *functions[] = {
    "_dl_audit_preinit",   "_dl_rtld_di_serinfo",       "_dl_exception_create", "_dl_find_dso_for_object",
    "__tls_get_addr",      "_dl_audit_symbind_alt",     "_dl_allocate_tls",     "_dl_allocate_tls_init",
    "_dl_exception_free",  "__nptl_change_stack_perm",  "_dl_deallocate_tls",
};
static const unsigned long arguments[] = {0, 1, 0x1234, 0x7ffffffff000, 0x800000000000, -1UL};
static sigjmp_buf back;

static void fault(int signo) { siglongjmp(back, signo); }

int main(void) {
    struct sigaction action = {.sa_handler = fault, .sa_flags = SA_NODEFER};
    for (int i = 0; i < 3; i++) sigaction((int[]){SIGSEGV, SIGBUS, SIGABRT}[i], &action, NULL);
    for (unsigned f = 0; f < sizeof functions / sizeof *functions; f++)
        for (unsigned a = 0; a < sizeof arguments / sizeof *arguments; a++) {
            unsigned long argument = arguments[a];
            void (*function)(unsigned long, unsigned long, unsigned long) = dlsym(RTLD_DEFAULT, functions[f]);
            int signo = sigsetjmp(back, 1);
            if (!signo) function(argument, argument, argument);
            printf("%s(%#lx): %s\n", functions[f], argument, signo ? "signal" : "returns");
            fflush(stdout);
        }
    return 0;
}
