// A plugin registers a thread_local destructor for memory of its own under the program's handle; it is closed; the destructor's code is gone.
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>

extern "C" void *__dso_handle;
extern "C" int __cxa_thread_atexit_impl(void (*)(void *), void *, void *);

static void *work(void *) {
    void *plugin = dlopen("./leaving.so", RTLD_NOW);
    auto last_words = (void (*)(void *))dlsym(plugin, "last_words");
    __cxa_thread_atexit_impl(last_words, nullptr, &__dso_handle);
    puts("registered");
    fflush(stdout);
    dlclose(plugin);
    return nullptr;
}

int main() {
    pthread_t thread;
    pthread_create(&thread, nullptr, work, nullptr);
    pthread_join(thread, nullptr);
    return 0;
}
