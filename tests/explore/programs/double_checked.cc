// A double-checked lock: the first look at the pointer is outside of the mutex.
#include <atomic>
#include <cstdio>
#include <mutex>
#include <thread>
struct Config {
    int value;
};
static std::mutex mutex;
#ifdef FIXED
static std::atomic<Config *> instance;
static Config *get() {
    Config *seen = instance.load(std::memory_order_acquire);
    if (!seen) {
        std::lock_guard<std::mutex> lock(mutex);
        seen = instance.load(std::memory_order_relaxed);
        if (!seen) instance.store(seen = new Config{42}, std::memory_order_release);
    }
    return seen;
}
#else
static Config *instance;
static Config *get() {
    if (!instance) {
        std::lock_guard<std::mutex> lock(mutex);
        if (!instance) instance = new Config{42};
    }
    return instance;
}
#endif
int main() {
    std::thread one(get), two(get);
    one.join();
    two.join();
    std::printf("%d\n", get()->value);
}
