// races: the counts of a shared pointer are atomic, the pointer is not.
#include <memory>
#include <mutex>
#include <thread>
static std::shared_ptr<int> shared = std::make_shared<int>(1);
static std::mutex m;
int main() {
    std::thread thread([] {
#ifdef FIXED
        std::lock_guard<std::mutex> lock(m);
#endif
        shared.reset();
    });
    {
#ifdef FIXED
        std::lock_guard<std::mutex> lock(m);
#endif
        std::shared_ptr<int> mine = shared;
    }
    thread.join();
}
