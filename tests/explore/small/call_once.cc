// What is made once is used by who comes second while it is still being made.
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <unistd.h>
[[maybe_unused]] static std::once_flag once;
[[maybe_unused]] static std::atomic<bool> begun;
static std::atomic<int> value;
static void use() {
#ifdef FIXED
    std::call_once(once, [] { value = 42; });
#else
    if (!begun.exchange(true)) value = 42;
#endif
    if (value != 42) _exit(3);
}
int main() {
    std::thread one(use), two(use);
    one.join();
    two.join();
}
